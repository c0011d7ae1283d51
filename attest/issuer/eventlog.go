package issuer

import "github.com/ashlar-mesh/ashlar/attest"

// The event logs that the kernel shows: the CCEL of a confidential guest (UEFI
// 2.10, section 38.4.3) and a TPM's (TCG PC Client Platform Firmware Profile).
const (
	ccelTable  = "/sys/firmware/acpi/tables/CCEL" // its header: "CCEL", lengths, the log's place
	ccelData   = "/sys/firmware/acpi/tables/data/CCEL"
	tpmLogPath = "/sys/kernel/security/tpm0/binary_bios_measurements"
)

const (
	maxACPIHeader = 4 << 10 // bytes
	// maxLogArea bounds what the firmware sets aside, of which the log is the
	// beginning; most set 64 KiB aside.
	maxLogArea = 4 << 20
)

// logSlack is how much of the unused end of the area is kept, in bytes: the last
// event may itself end in such bytes, and readers take them for padding.
const logSlack = 4 << 10

// guestEventLog returns the CCEL without most of the unused end of its area, or
// nothing where there is none or it is larger than evidence may carry: a verifier
// then sees the registers alone.
func (m Machine) guestEventLog() []byte {
	header, err := m.readFile(ccelTable, maxACPIHeader)
	if err != nil || len(header) < 4 || string(header[:4]) != "CCEL" {
		return nil
	}
	return m.eventLog(ccelData)
}

// tpmEventLog returns the log that the firmware and the boot loader kept for the
// TPM, on the same terms.
func (m Machine) tpmEventLog() []byte { return m.eventLog(tpmLogPath) }

func (m Machine) eventLog(path string) []byte {
	log, err := m.readFile(path, maxLogArea)
	if err != nil || len(log) == 0 {
		return nil
	}
	fill := log[len(log)-1]
	end := len(log)
	for (fill == 0 || fill == 0xff) && end > 0 && log[end-1] == fill {
		end--
	}
	if log = log[:min(len(log), end+logSlack)]; len(log) > attest.MaxEventLog {
		return nil
	}
	return log
}
