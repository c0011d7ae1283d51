package mesh

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ashlar-mesh/ashlar/coordinator"
	"github.com/ashlar-mesh/ashlar/manifest"
)

// The subscribers of a benchmark are another process, so that the coordinator's
// share of the CPU is what getrusage says of this one.
const crowdVariable = "ASHLAR_MESH_CROWD"

func TestMain(m *testing.M) {
	if os.Getenv(crowdVariable) != "" {
		if err := crowd(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// crowdConfig goes to the crowd's standard input.
type crowdConfig struct {
	Address    string
	CA         []byte   // PEM
	Chain, Key [][]byte // PEM, one for each subscriber
}

// crowd connects every subscriber, says so, and then prints for each round when
// each of them had the new endpoints.
func crowd() error {
	var config crowdConfig
	if err := json.NewDecoder(os.Stdin).Decode(&config); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(config.CA)
	got := make(chan int64, len(config.Chain))
	ready := make(chan error, len(config.Chain))
	slots := make(chan struct{}, 16)
	for i := range config.Chain {
		cert, err := tls.X509KeyPair(config.Chain[i], config.Key[i])
		if err != nil {
			return err
		}
		go func() {
			slots <- struct{}{}
			stream, err := enter(config.Address, roots, cert)
			<-slots
			ready <- err
			for err == nil {
				var resp *discovery.DeltaDiscoveryResponse
				if resp, err = stream.Recv(); err == nil {
					got <- time.Now().UnixNano()
					err = stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce})
				}
			}
		}()
	}
	for range config.Chain {
		if err := <-ready; err != nil {
			return err
		}
	}
	out := json.NewEncoder(os.Stdout)
	times := []int64{}
	for {
		if err := out.Encode(times); err != nil {
			return nil // the parent is done
		}
		times = times[:0]
		for range config.Chain {
			times = append(times, <-got)
		}
	}
}

// enter opens a stream and takes everything there is at first.
func enter(address string, roots *x509.CertPool, cert tls.Certificate) (discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "coordinator", Certificates: []tls.Certificate{cert},
	})))
	if err != nil {
		return nil, err
	}
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(context.Background())
	if err != nil {
		return nil, err
	}
	for _, k := range []Kind{Cluster, Endpoint, Listener} {
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: k.TypeURL(), ResourceNamesSubscribe: []string{"*"}}
		if k == Endpoint {
			req.ResourceNamesSubscribe = nil
			for i := range services {
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, hop{fmt.Sprintf("svc-%d", i), "http"}.outboundName())
			}
		}
		if err := stream.Send(req); err != nil {
			return nil, err
		}
		resp, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce}); err != nil {
			return nil, err
		}
	}
	return stream, nil
}

const services = 10 // that every subscriber calls

// crowdView has n instances of up to 100 marbles, each calling 10 services.
func crowdView(n int) *coordinator.View {
	v := &coordinator.View{Revision: "aa", TrustDomain: "shop.example", Manifest: &manifest.Manifest{Marbles: map[string]manifest.Marble{}}}
	var calls []manifest.Call
	for i := range services {
		name := fmt.Sprintf("svc-%d", i)
		v.Manifest.Marbles[name] = manifest.Marble{Serves: map[string]manifest.Port{"http": {Port: uint16(8000 + i), Protocol: manifest.HTTP}}}
		calls = append(calls, manifest.Call{Marble: name, Port: "http", Listen: uint16(9000 + i)})
		v.Instances = append(v.Instances, coordinator.ViewInstance{Marble: name, ID: "1", Address: fmt.Sprintf("10.0.0.%d", i+1)})
	}
	for i := range n {
		name := fmt.Sprintf("web-%d", i%100)
		v.Manifest.Marbles[name] = manifest.Marble{Calls: calls}
		v.Instances = append(v.Instances, coordinator.ViewInstance{Marble: name, ID: fmt.Sprint(i), Address: fmt.Sprintf("10.1.%d.%d", i/200, i%200+1)})
	}
	return v
}

// cpu returns the CPU time of this process so far.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// inUse returns the bytes of heap and stacks in use.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

func BenchmarkPush100(b *testing.B)  { benchmarkPush(b, 100) }
func BenchmarkPush1000(b *testing.B) { benchmarkPush(b, 1000) }

// benchmarkPush measures one changed endpoint that n proxies, each over mTLS of
// its own, get to know.
func benchmarkPush(b *testing.B, n int) {
	f := newFixture(b, crowdView(n))
	config := crowdConfig{Address: f.address, CA: f.ca.PEM()}
	for i := range n {
		leaf := f.leaf(fmt.Sprintf("web-%d", i%100), fmt.Sprint(i), time.Hour)
		config.Chain, config.Key = append(config.Chain, leaf.Chain), append(config.Key, leaf.Key)
	}
	alone := inUse()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crowdVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if err := json.NewEncoder(in).Encode(config); err != nil {
		b.Fatal(err)
	}
	lines := json.NewDecoder(bufio.NewReader(out))
	var times []int64
	if err := lines.Decode(&times); err != nil {
		b.Fatal(err)
	}
	connected := inUse()
	var spent time.Duration
	var late []time.Duration
	for i := 0; b.Loop(); i++ {
		time.Sleep(20 * time.Millisecond) // let the answers to the last round come in
		begin, used := time.Now(), cpu()
		f.change(func(v *coordinator.View) {
			v.Instances[i%services].Address = fmt.Sprintf("10.%d.%d.%d", 2+i>>16, i>>8&255, i&255)
		})
		if err := lines.Decode(&times); err != nil {
			b.Fatal(err)
		}
		spent += cpu() - used
		for _, t := range times {
			late = append(late, time.Duration(t-begin.UnixNano()))
		}
	}
	slices.Sort(late)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(float64(connected-alone)/1024/float64(n), "KiB/proxy")
	b.ReportMetric(ms(spent)/float64(b.N), "cpu-ms/push")
	b.ReportMetric(ms(late[len(late)/2]), "p50-ms")
	b.ReportMetric(ms(late[len(late)*99/100]), "p99-ms")
}

// BenchmarkCompile1000 compiles everything for 1,000 instances, as after a new
// manifest; BenchmarkNext1000 what a changed endpoint costs.
func BenchmarkCompile1000(b *testing.B) {
	v := crowdView(1000)
	for b.Loop() {
		new(snapshot).next(v)
	}
}

func BenchmarkNext1000(b *testing.B) {
	v := crowdView(1000)
	s := new(snapshot).next(v)
	for i := 0; b.Loop(); i++ {
		w := *v
		w.Instances = slices.Clone(v.Instances)
		w.Instances[0].Address = fmt.Sprintf("10.9.0.%d", i%250+1)
		s = s.next(&w)
	}
}

// What does not change is taken over, so that a push finds it unchanged at
// once.
func TestNextTakesOverWhatIsUnchanged(t *testing.T) {
	v := crowdView(10)
	a := new(snapshot).next(v)
	w := *v
	w.Instances = slices.Clone(v.Instances)
	w.Instances[0].Address = "10.9.9.9"
	b := a.next(&w)
	key := instanceKey{"web-3", "3"}
	for k := range kinds {
		if same := a.sets[key].gen[k] == b.sets[key].gen[k]; same != (k != Endpoint) {
			t.Errorf("%ss unchanged: got %v", k, same)
		}
	}
	if c := b.next(&w); c.sets[key].gen != b.sets[key].gen {
		t.Errorf("got generations %v, want %v", c.sets[key].gen, b.sets[key].gen)
	}
	fresh := mustCompile(t, &w, key.marble, key.id)
	for k := range kinds {
		if !sameGroup(fresh[k], b.sets[key].res[k]) && len(fresh[k]) > 0 {
			t.Errorf("%ss differ from those compiled afresh", k)
		}
	}
}
