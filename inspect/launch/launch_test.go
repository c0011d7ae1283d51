package launch

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
)

func kernel(initrd, commandLine string) *Kernel {
	return &Kernel{Image: sha256.Sum256([]byte("kernel")), Initrd: sha256.Sum256([]byte(initrd)), CommandLine: commandLine}
}

// TestSNPGolden compares launch digests with those of an independent tool:
// testdata/README.md.
func TestSNPGolden(t *testing.T) {
	f, err := ReadFirmware(synthetic())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		options SNPOptions
		cpu     string
		want    string
	}{
		{"QEMU, 1", SNPOptions{VMM: "qemu", VCPUs: 1, GuestFeatures: 1}, "EPYC-v4", "25e5435e11d87a5905320380b0cc1dbbfa36055859ea7b8a41c8bee532102b495528cad8defd37583759d1a6ae56f869"},
		{"QEMU, 4", SNPOptions{VMM: "qemu", VCPUs: 4, GuestFeatures: 1}, "EPYC-v4", "10299220d0d4f449b289e62e8d58879ba879f9f362fa276afa87fdbce30bfb550fbf4ea5dadfd5b7a7f6ce2ee28fe869"},
		{"ec2, 1", SNPOptions{VMM: "ec2", VCPUs: 1, GuestFeatures: 1}, "EPYC-v4", "e607b9ff52f0da964aa7efe8a8833734c65cb7c157ca40e1bff32ac7bfdfd8ef268f3d55bc0d890b8b6ce04ff2e7e949"},
		{"ec2, 4", SNPOptions{VMM: "ec2", VCPUs: 4, GuestFeatures: 1}, "EPYC-v4", "a02ef9dc41faa414d808334253629e8255a5940b1996d4cf69fb86eacf8b2ad116bfe9db7e65675ca71da7158382dde3"},
		{"gce, 1", SNPOptions{VMM: "gce", VCPUs: 1, GuestFeatures: 1}, "EPYC-v4", "056a123e449857a141f9eda23935125635f521b99b75c952157744db375f616ad1c86a03a6b09ef82f347503eb741a5b"},
		{"gce, 4", SNPOptions{VMM: "gce", VCPUs: 4, GuestFeatures: 1}, "EPYC-v4", "d42f01a20d0854f0a55b6b71582688efd78078e380271ddfa49e1a364a8c3359b918d10846835c68ba2caddd4725aa29"},
		{"kernel, EPYC-Milan", SNPOptions{VMM: QEMU, VCPUs: 2, GuestFeatures: 0x21, Kernel: kernel("initrd", "console=ttyS0 ro")}, "EPYC-Milan", "7941f77b1538a171b5e307363c92ead121116b1bef18d236ca704eaae4aac5f75709fe68ecb00bd98dadfe1200ef864e"},
		{"kernel, EPYC-Genoa", SNPOptions{VMM: QEMU, VCPUs: 2, GuestFeatures: 0x21, Kernel: kernel("initrd", "console=ttyS0 ro")}, "EPYC-Genoa", "080ac7d4ffb68b3c7c1cf059cc17b4699d2f4f3b4ccfcd66a64e0baba830fde33af17fbb6f30c6fc22dc6c98ac1185a0"},
		{"kernel, EPYC-Rome-v2", SNPOptions{VMM: QEMU, VCPUs: 2, GuestFeatures: 0x21, Kernel: kernel("initrd", "console=ttyS0 ro")}, "EPYC-Rome-v2", "a23148a75fe7ec12335cc15db7e368a2dfc2b62dd3f42b7ac9d93ffaa1b1d92aef5cc4430e33d47a355b4c12b343a2c0"},
		{"kernel, EPYC-Turin", SNPOptions{VMM: QEMU, VCPUs: 2, GuestFeatures: 0x21, Kernel: kernel("initrd", "console=ttyS0 ro")}, "EPYC-Turin", "a0c547f4fc8310270d6f1ac1872e3c0f61a450b3927e92d50ffc1abca867a7b70ca8e703dbbbf44258b68a33722d78a2"},
		{"kernel alone", SNPOptions{VMM: QEMU, VCPUs: 1, GuestFeatures: 1, Kernel: kernel("", "")}, "EPYC-Milan", "71a715ebac0412b385016af1da246152f244e0258188140e6373b400761232d2e3c3c6cc0f68a88b8b3d7aac98436103"},
		{"numbered type", SNPOptions{VMM: QEMU, VCPUs: 1, GuestFeatures: 1}, "25/33/0", "538aae46c223a22088ef1c85e424674080907e616273712d560b921d95b46def9e8a8d68481be2ce5a552242922a09c3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.options.CPU, err = CPUSignature(c.cpu); err != nil {
				t.Fatal(err)
			}
			got, err := f.SNP(c.options)
			if err != nil || hex.EncodeToString(got[:]) != c.want {
				t.Errorf("got %x, %v, want %s", got, err, c.want)
			}
		})
	}
}

func TestTDXGolden(t *testing.T) {
	f, err := ReadFirmware(synthetic())
	if err != nil {
		t.Fatal(err)
	}
	const want = "cdfdb5c6556939fd03c5db9b775e1fed73740a4ff3b7004d5f6ca240d775d88a0b8efa6329aa3189e13c031105359d20"
	got, err := f.TDX(PerPage)
	if err != nil || hex.EncodeToString(got[:]) != want {
		t.Errorf("got %x, %v, want %s", got, err, want)
	}
	if other, err := f.TDX(PerSection); err != nil || other == got {
		t.Errorf("per section: got %x, %v, want another digest", other, err)
	}
}

// TestTDXLaterPages checks that memory that is added later is not measured.
func TestTDXLaterPages(t *testing.T) {
	digest := func(sections ...tdvfSection) Digest {
		f, err := ReadFirmware(firmware(nil, tdvfTable(sections...), entry(guidTDX, words(nil, tdvfOffset))))
		if err != nil {
			t.Fatal(err)
		}
		d, err := f.TDX(PerPage)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	memory := tdvfSection{0, 0, 0x810000, 0x10000, 3, 0}
	later := tdvfSection{0, 0, 0, 1 << 40, 4, tdvfAug}
	if got, want := digest(memory, later), digest(memory); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	if digest(memory) == digest(tdvfSection{0, 0, 0x811000, 0x10000, 3, 0}) {
		t.Error("another address gives the same MRTD")
	}
}

// TestDebianFirmware measures EDK II as Debian builds it, where it is installed.
func TestDebianFirmware(t *testing.T) {
	for _, c := range []struct{ sum, snp, tdx string }{
		{"7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773",
			"32ac9d7a17d28f7cd4404a4516d2f00519668c40ada2062351c36767e908eb3f090d66c33ab10f80150e00a4385b6d0f",
			"4c7206f0f483c524f12c366c711e9049030a8d47c471ee5aa9c4999a08de4057fb887fed0744d5631a212967fb231c47"},
		{"14954040cc754ade0c625ac3470ea46d4c14318b5b1396de4ef77090203d76db",
			"676826e902524799a067f7c43b3ab0101dce73a2506d41436dd2f8472fa208081f11f9e65ca5d2439785732a0bfd8339",
			"bdc6fb145880f06f30c8b346b8dce2a99d9351b56892df22f80fcf6574caa9f9c31df8e8576d53b4d0cd1c3f28910e11"},
	} {
		raw, err := os.ReadFile("/usr/share/ovmf/OVMF.fd")
		sum := sha256.Sum256(raw)
		if err != nil || hex.EncodeToString(sum[:]) != c.sum {
			continue
		}
		f, err := ReadFirmware(raw)
		if err != nil {
			t.Fatal(err)
		}
		cpu, _ := CPUSignature("EPYC-v4")
		if got, err := f.SNP(SNPOptions{VMM: QEMU, VCPUs: 4, CPU: cpu, GuestFeatures: 1}); err != nil || hex.EncodeToString(got[:]) != c.snp {
			t.Errorf("SNP: got %x, %v, want %s", got, err, c.snp)
		}
		if got, err := f.TDX(PerPage); err != nil || hex.EncodeToString(got[:]) != c.tdx {
			t.Errorf("TDX: got %x, %v, want %s", got, err, c.tdx)
		}
		return
	}
	t.Skip("no known build of OVMF at /usr/share/ovmf/OVMF.fd: the synthetic images stand for it")
}

// TestFirmwareRefuses changes one thing at a time.
func TestFirmwareRefuses(t *testing.T) {
	sev := func(sections ...uint32) []byte {
		return firmware(sevTable(sections...), nil, entry(guidSEV, words(nil, sevOffset)), entry(guidResetBlock, words(nil, apStart)))
	}
	patch := func(img []byte, fromEnd int, b ...byte) []byte {
		copy(img[len(img)-fromEnd:], b)
		return img
	}
	one := SNPOptions{VMM: QEMU, VCPUs: 1}
	for _, c := range []struct {
		name    string
		image   []byte
		options SNPOptions
		text    string
	}{
		{"no image", nil, one, "no firmware"},
		{"half a page", synthetic()[2048:], one, "no firmware"},
		{"no footer", patch(synthetic(), footerEnd+16, 0, 0), one, "no firmware"},
		{"table too long", patch(synthetic(), footerEnd+entryHeader, 0xff, 0xff), one, "length of 65535"},
		{"table too short", patch(synthetic(), footerEnd+entryHeader, 1, 0), one, "length of 1"},
		{"entry too long", patch(synthetic(), footerEnd+2*entryHeader, 0xff, 0), one, "length of 255"},
		{"entry twice", firmware(nil, nil, entry(guidSEV, words(nil, 1)), entry(guidSEV, words(nil, 1))), one, "twice"},
		{"no metadata", firmware(nil, nil, entry(guidResetBlock, words(nil, 1))), one, "no such part"},
		{"metadata outside", firmware(nil, nil, entry(guidSEV, words(nil, imageSize+1))), one, "before the end"},
		{"metadata at the end", firmware(nil, nil, entry(guidSEV, words(nil, 8))), one, "signature ASEV"},
		{"metadata of version 2", patch(sev(), sevOffset-8, 2), one, "version 1"},
		{"65 sections", sev(make([]uint32, 65*3)...), one, "65 sections"},
		{"metadata cut", patch(sev(defaultSEV...), sevOffset-4, 99), one, "in 99 bytes"},
		{"section of half a page", sev(0x1000, 0x800, 1), one, "not made of pages"},
		{"section of 2 GiB", sev(0x1000, 0x80000000, 1), one, "limit"},
		{"sections of 1.5 GiB", sev(0, 0x30000000, 1, 0, 0x30000000, 1), one, "more than"},
		{"section of unknown type", sev(0, 0x1000, 5), one, "unknown type 5"},
		{"no processor", synthetic(), SNPOptions{VMM: QEMU}, "0 processors"},
		{"too many processors", synthetic(), SNPOptions{VMM: QEMU, VCPUs: MaxVCPUs + 1}, "4097 processors"},
		{"no reset block", firmware(sevTable(defaultSEV...), nil, entry(guidSEV, words(nil, sevOffset))), SNPOptions{VMM: QEMU, VCPUs: 2}, "further processors"},
		{"kernel, but no section", sev(0x800000, 0x1000, 1), SNPOptions{VMM: QEMU, VCPUs: 1, Kernel: kernel("", "")}, "hashes of a kernel"},
		{"kernel, but no table", sev(0x810000, 0x1000, 16), SNPOptions{VMM: QEMU, VCPUs: 1, Kernel: kernel("", "")}, "hashes of a kernel"},
		{"table outside", firmware(sevTable(0x810000, 0x1000, 16), nil, entry(guidSEV, words(nil, sevOffset)), entry(guidHashTable, words(nil, 0x810fff, 1))),
			SNPOptions{VMM: QEMU, VCPUs: 1, Kernel: kernel("", "")}, "does not lie in its section"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := ReadFirmware(c.image)
			if err == nil {
				_, err = f.SNP(c.options)
			}
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
}

func TestTDVFRefuses(t *testing.T) {
	page := tdvfSection{0, pageSize, 0, pageSize, 0, 1}
	with := func(edit func(*tdvfSection)) []byte {
		s := page
		edit(&s)
		return tdvfTable(s)
	}
	for _, c := range []struct {
		name, text string
		tdvf       []byte
	}{
		{"none", "signature TDVF", make([]byte, 16)},
		{"version 2", "version 1", append([]byte("TDVF"), words(nil, 16, 2, 0)...)},
		{"count", "sections", append([]byte("TDVF"), words(nil, 48, 1, 2)...)},
		{"65 sections", "65 sections", append([]byte("TDVF"), words(nil, 16+65*32, 1, 65)...)},
		{"half a page", "not made of pages", with(func(s *tdvfSection) { s.gpa = 1 })},
		{"too large", "limit", with(func(s *tdvfSection) { s.size = 1 << 40 })},
		{"out of memory", "address space", with(func(s *tdvfSection) { s.gpa = 0xfffffffffffff000 })},
		{"data outside", "leave the image", with(func(s *tdvfSection) { s.offset = imageSize })},
		{"more data than memory", "of memory", with(func(s *tdvfSection) { s.raw = 2 * pageSize })},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := ReadFirmware(firmware(nil, c.tdvf, entry(guidTDX, words(nil, tdvfOffset))))
			if err == nil {
				_, err = f.TDX(PerPage)
			}
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
	f, err := ReadFirmware(firmware(nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.TDX(PerPage); !errors.Is(err, ErrAbsent) || f.HasTDX() || f.HasSNP() {
		t.Errorf("got %v, want ErrAbsent", err)
	}
}

func TestCPUSignature(t *testing.T) {
	for name, want := range map[string]uint32{"EPYC": 0x800f12, "EPYC-v4": 0x800f12, "EPYC-IBPB": 0x800f12, "EPYC-Rome": 0x830f10, "EPYC-Milan-v2": 0xa00f11,
		"EPYC-Genoa-v1": 0xa10f10, "EPYC-Turin": 0xb00f00, "25/1/1": 0xa00f11,
		"": 0, "EPYC-": 0, "epyc": 0, "EPYC-v": 0, "EPYC-v999": 0, "Skylake": 0, "25/1": 0, "25/1/16": 0, "271/0/0": 0, "-1/0/0": 0, "a/b/c": 0} {
		got, err := CPUSignature(name)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: got %#x, %v, want %#x", name, got, err, want)
		}
	}
}

// TestIGVMGolden compares with the measurements of the format's reference
// library: testdata/README.md. QEMU's differs in pages of zeros alone.
func TestIGVMGolden(t *testing.T) {
	g, err := ReadIGVM(syntheticIGVM())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		measure func() (Digest, error)
		want    string
	}{
		"snp, hyperv": {func() (Digest, error) { return g.SNP(HyperV) }, "bd911396c5de4988686ea33c4bd5864bd90ca5271f663a01289ef143cbc69638910c742bc7d0803b23cf11d1814a9c3c"},
		"snp, qemu":   {func() (Digest, error) { return g.SNP(QEMU) }, "8f7881b4635f16dade0bb765723c8c6c6ae714b2753db27b1e063b654fc8cc41fa855a827d24f15609a0d9d6f0470af1"},
		"tdx":         {func() (Digest, error) { return g.TDX(PerPage) }, "bb4128ff03798c502a701984f127fac8598de788d8dad35dbb6809cd34bdf7caec5217aa00ea309bb36fe3548c5aa4a6"},
	} {
		if got, err := c.measure(); err != nil || hex.EncodeToString(got[:]) != c.want {
			t.Errorf("%s: got %x, %v, want %s", name, got, err, c.want)
		}
	}
	if policy, ok := g.SNPPolicy(); !ok || policy != 0x30000 || !g.HasSNP() || !g.HasTDX() {
		t.Errorf("got policy %#x, %t, SNP %t, TDX %t", policy, ok, g.HasSNP(), g.HasTDX())
	}
	if _, ok := g.SNPIDBlock(); ok {
		t.Error("got an ID block, want none")
	}
	if _, err := g.SNP(EC2); err == nil {
		t.Error("ec2: got a digest, want an error")
	}
}

func TestIGVMIDBlock(t *testing.T) {
	var f igvmFile
	f.add(igvmPlatform, append(append(words(nil, 1), 0, igvmSNP, 1, 0), le64s(0)...))
	block := make([]byte, igvmSizes[igvmIDBlock])
	binary.LittleEndian.PutUint32(block, 1)
	for i := 8; i < 88; i++ {
		block[i] = byte(i)
	}
	block[92] = 7
	f.add(igvmIDBlock, block)
	g, err := ReadIGVM(f.bytes(igvmBase))
	if err != nil {
		t.Fatal(err)
	}
	id, ok := g.SNPIDBlock()
	if !ok || id.Digest[0] != 8 || id.FamilyID[0] != 56 || id.ImageID[15] != 87 || id.GuestSVN != 7 {
		t.Errorf("got %+v, %t", id, ok)
	}
}

func TestIGVMRefuses(t *testing.T) {
	file := func(build func(*igvmFile)) []byte {
		var f igvmFile
		f.add(igvmPlatform, append(append(words(nil, 1), 0, igvmSNP, 1, 0), le64s(0)...))
		build(&f)
		return f.bytes(igvmBase)
	}
	data := func(gpa uint64, offset, flags uint32, kind uint16) []byte {
		return file(func(f *igvmFile) {
			b := append(le64s(gpa), words(nil, 1, offset, flags)...)
			f.add(igvmPageData, binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, kind), 0))
		})
	}
	damaged := syntheticIGVM()
	damaged[40] ^= 1
	for _, c := range []struct {
		name, text string
		file       []byte
	}{
		{"empty", "no fixed header", nil},
		{"cut", "header says", syntheticIGVM()[:4096]},
		{"checksum", "checksum", damaged},
		{"version 3", "version 3", append([]byte("IGVM"), words(nil, 3, 0, 0, 0, 0)...)},
		{"version 2 for Arm", "architecture 1", append([]byte("IGVM"), words(nil, 2, 32, 0, 32, 0, 1, 4096)...)},
		{"structure too short", "want 24", file(func(f *igvmFile) { f.add(igvmPageData, make([]byte, 8)) })},
		{"structure cut", "leave", file(func(f *igvmFile) { f.headers = words(f.headers, 0x999, 1000) })},
		{"half a structure", "ends within", file(func(f *igvmFile) { f.headers = words(f.headers, 0x999) })},
		{"platform twice", "twice", file(func(f *igvmFile) {
			f.add(igvmPlatform, append(append(words(nil, 2), 0, igvmSNP, 1, 0), le64s(0)...))
		})},
		{"area of half a page", "parameter area", file(func(f *igvmFile) { f.add(igvmParameterArea, append(le64s(2048), words(nil, 0, 0)...)) })},
		{"area not declared", "not declared", file(func(f *igvmFile) { f.add(igvmParameterInsert, append(le64s(0), words(nil, 1, 9)...)) })},
		{"no platform", "no such part", (&igvmFile{}).bytes(igvmBase)},
		{"no processor state", "0 processor states", file(func(*igvmFile) {})},
		{"half a page", "not made of pages", data(0x800, 0, 0, igvmNormal)},
		{"page outside", "leave the image", data(0, 1<<30, 0, igvmNormal)},
		{"page of 2 MiB", "2 MiB", data(0, 0, igvm2MiB, igvmNormal)},
		{"page of unknown type", "unknown type 9", data(0, 0, 0, 9)},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := ReadIGVM(c.file)
			if err == nil {
				_, err = g.SNP(QEMU)
			}
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
		})
	}
}

// TestIGVMBudget checks that a file cannot have more measured than the limit.
func TestIGVMBudget(t *testing.T) {
	var f igvmFile
	f.add(igvmPlatform, append(append(words(nil, 1), 0, igvmSNP, 1, 0), le64s(0)...))
	f.add(igvmParameterArea, append(le64s(maxPages*pageSize), words(nil, 0, 0)...))
	for range 2 {
		f.add(igvmParameterInsert, append(le64s(0), words(nil, 1, 0)...))
	}
	g, err := ReadIGVM(f.bytes(igvmBase))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.SNP(HyperV); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v, want a limit", err)
	}
}

// TestImages checks that the images in testdata, which others inspect, are those
// that the golden digests are of.
func TestImages(t *testing.T) {
	for name, want := range map[string][]byte{"guest.fd": synthetic(), "guest.igvm": syntheticIGVM()} {
		if got, err := os.ReadFile("testdata/" + name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, %v, want the %d of the test", name, len(got), err, len(want))
		}
	}
}

func FuzzFirmware(f *testing.F) {
	f.Add(synthetic())
	f.Add(firmware(nil, nil))
	f.Fuzz(func(_ *testing.T, b []byte) {
		fw, err := ReadFirmware(b)
		if err != nil || len(b) > 1<<17 {
			return
		}
		_, _ = fw.SNP(SNPOptions{VMM: QEMU, VCPUs: 2, Kernel: kernel("", "")})
		_, _ = fw.TDX(PerSection)
	})
}

func FuzzIGVM(f *testing.F) {
	f.Add(syntheticIGVM())
	f.Fuzz(func(_ *testing.T, b []byte) {
		if len(b) >= 24 && len(b) < 1<<17 { // past the checksum, where there is one to mend
			mend(b)
		}
		g, err := ReadIGVM(b)
		if err != nil {
			return
		}
		_, _ = g.SNP(QEMU)
		_, _ = g.SNP(HyperV)
		_, _ = g.TDX(PerPage)
		g.SNPIDBlock()
	})
}
