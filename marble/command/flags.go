package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
	"github.com/ashlar-mesh/ashlar/marble/probe"
)

// options are what the command line and the environment say.
type options struct {
	marble, id, address, loopback string
	coordinator, root, policy     string
	tee, simSocket                string
	envoy, envoyLog               string
	dir, readyAddr, logFormat     string
	references                    string // folder in which the host puts references
	probesText                    string
	probes                        probe.Set // of the program
	measure                       measured
	devices                       collectors
	readyTimeout, grace           time.Duration
	reload                        reloadSignal // sent to the program when files were replaced
	onCut                         string       // what becomes of the program when its identity ends
	command                       []string     // program and arguments
}

// measured are --measure flags: [NAME=]FILE, NAME being the file's own if absent.
type measured []measuredFile

type measuredFile struct{ name, path string }

// String implements flag.Value.
func (m *measured) String() string { return "" }

// Set implements flag.Value.
func (m *measured) Set(s string) error {
	name, path, named := strings.Cut(s, "=")
	if !named || strings.Contains(name, "/") {
		name, path = filepath.Base(s), s
	}
	if name == "" || path == "" {
		return errors.New("want FILE or NAME=FILE")
	}
	if slices.ContainsFunc(*m, func(f measuredFile) bool { return f.name == name }) {
		return fmt.Errorf("the name %q comes twice: give NAME=FILE", name)
	}
	*m = append(*m, measuredFile{name, path})
	return nil
}

// reloadSignal is a signal by name; 0 is none.
type reloadSignal syscall.Signal

var reloadSignals = map[string]syscall.Signal{"none": 0, "HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2}

// String implements flag.Value.
func (r *reloadSignal) String() string { return "none" }

// Set implements flag.Value.
func (r *reloadSignal) Set(s string) error {
	sig, ok := reloadSignals[strings.TrimPrefix(s, "SIG")]
	if !ok {
		return errors.New("want none, HUP, USR1 or USR2")
	}
	*r = reloadSignal(sig)
	return nil
}

const usageText = `Runs a program as a member of the mesh.

  ashlar-marble run --marble web --coordinator coord:2001 --coordinator-root root.pem -- /app/web --port 8080

usage: ashlar-marble run [flags] -- PROGRAM [ARGS]
       ashlar-marble install FOLDER   copy this program and Envoy there, for a pod
       ashlar-marble ready            whether a marble that runs here is ready
       ashlar-marble detect           which TEE is here, and why not another
       ashlar-marble version

The program starts when the coordinator has accepted the evidence for it. Until
then no secret exists here. Scripts: name the interpreter, and --measure them.

flags (environment variable):
`

const exitText = `
exit codes: the program's own, 128 + the signal's number if one ended it; before
the program started: 1 tool failed, 2 usage, 3 refused, 4 unreachable, 6 invalid.
75 if the program was stopped since its identity ended (--on-cut stop), 77 since
it was revoked.
`

func (o *options) flagSet(getenv func(string) string) *flag.FlagSet {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	text := func(p *string, name, env, value, usage string) {
		if env != "" {
			usage += " ($" + env + ")"
			if v := getenv(env); v != "" {
				value = v
			}
		}
		f.StringVar(p, name, value, usage)
	}
	text(&o.marble, "marble", "ASHLAR_MARBLE", "", "`NAME` of the marble in the manifest")
	text(&o.coordinator, "coordinator", "ASHLAR_COORDINATOR", "", "`HOST:PORT` of the coordinator's mesh port")
	text(&o.root, "coordinator-root", "ASHLAR_COORDINATOR_ROOT", "", "trust the coordinator with this root CA: PEM `FILE`, from ashlar verify")
	text(&o.policy, "coordinator-policy", "ASHLAR_COORDINATOR_POLICY", "", "or judge its evidence by this policy `FILE`")
	text(&o.id, "id", "ASHLAR_UUID", "", "`UUID` of this instance; else kept in --dir if that is given, else random")
	text(&o.address, "ip", "ASHLAR_IP", "", "`IP` on which Envoy listens for peers; else the one that reaches the coordinator")
	text(&o.loopback, "loopback", "ASHLAR_LOOPBACK", "127.0.0.1", "`IP` on which the program listens and calls")
	text(&o.tee, "tee", "ASHLAR_TEE", string(issuer.Auto), "`TEE` that vouches: auto, sgx, snp, tdx and others, see ashlar-marble detect; or sim:sgx, sim:tdx")
	text(&o.simSocket, "sim-socket", "ASHLAR_SIM_SOCKET", "", "unix `SOCKET` of the simulation platform")
	text(&o.envoy, "envoy", "ASHLAR_ENVOY", "envoy", "`PATH` of Envoy, or none to run without a proxy")
	text(&o.envoyLog, "envoy-log", "ASHLAR_ENVOY_LOG", "warning", "Envoy's log `LEVEL`")
	text(&o.dir, "dir", "ASHLAR_DIR", "", "private runtime `FOLDER`, best on tmpfs; else a new one, removed at the end")
	text(&o.references, "references", "ASHLAR_REFERENCES", "", "`FOLDER` of files with references to secrets, each below it where it is to be below /")
	text(&o.readyAddr, "ready-addr", "ASHLAR_READY_ADDR", "", "`ADDRESS` of the probes /ready and /live: IP:PORT, or the path of a unix socket")
	text(&o.probesText, "probes", "ASHLAR_PROBES", "", "the program's own probes, which /probe/readiness and others ask: `JSON`, see docs/marble.md")
	text(&o.logFormat, "log-format", "ASHLAR_LOG_FORMAT", "text", "text or json, on standard error")
	f.Var(&o.measure, "measure", "further `[NAME=]FILE` to measure; may be repeated")
	f.Var(&o.devices, "device", "`NAME=COMMAND` that collects a GPU's evidence, given a nonce in hexadecimal; may be repeated")
	f.Var(&o.reload, "reload-signal", "`SIGNAL` for the program when its files were replaced: HUP, USR1, USR2")
	text(&o.onCut, "on-cut", "ASHLAR_ON_CUT", onCutKeep, "keep the program running, or stop it, when its identity ended for want of a renewal")
	f.DurationVar(&o.readyTimeout, "proxy-timeout", time.Minute, "how long Envoy may take to be ready")
	f.DurationVar(&o.grace, "grace", 30*time.Second, "how long the program may take to end after SIGTERM")
	return f
}

// parse reads the command line of `run`. Help is flag.ErrHelp.
func parse(args []string, getenv func(string) string) (options, error) {
	var o options
	f := o.flagSet(getenv)
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, suggest(f, err)
	}
	o.command = f.Args()
	return o, o.check()
}

func (o *options) check() error {
	usage := func(format string, args ...any) error { return problem.New("MRB-001", format, args...) }
	switch {
	case len(o.command) == 0:
		return usage("no program is given: ashlar-marble run [flags] -- PROGRAM [ARGS]")
	case o.marble == "":
		return usage("which marble of the manifest is it? give --marble or ASHLAR_MARBLE")
	case o.coordinator == "":
		return usage("where is the coordinator? give --coordinator or ASHLAR_COORDINATOR")
	case (o.root == "") == (o.policy == ""):
		return usage("which coordinator is trusted? give --coordinator-root or --coordinator-policy, one of the two")
	case o.logFormat != "text" && o.logFormat != "json":
		return usage("log format %q: wanted text or json", o.logFormat)
	case o.onCut != onCutKeep && o.onCut != onCutStop:
		return usage("--on-cut %q: wanted keep or stop", o.onCut)
	case o.readyTimeout <= 0 || o.grace <= 0:
		return usage("--proxy-timeout and --grace are durations above zero, such as 30s")
	}
	if err := o.checkTEE(); err != nil {
		return err
	}
	var err error
	if o.probes, err = probe.Parse(o.probesText); err != nil {
		return err
	}
	if len(o.probes) > 0 && o.readyAddr == "" {
		return usage("--probes are asked at --ready-addr: give that too")
	}
	for what, ip := range map[string]string{"--ip": o.address, "--loopback": o.loopback} {
		if _, err := netip.ParseAddr(ip); err != nil && (ip != "" || what == "--loopback") {
			return usage("%s %q is no IP address", what, ip)
		}
	}
	return nil
}

// simulations are the TEEs that have to be asked for by name.
var simulations = []attest.TEE{attest.SimSGX, attest.SimTDX}

func (o *options) checkTEE() error {
	usage := func(format string, args ...any) error { return problem.New("MRB-001", format, args...) }
	tee := attest.TEE(o.tee)
	known := append(append([]attest.TEE{issuer.Auto}, issuer.Kinds()...), simulations...)
	switch {
	case !slices.Contains(known, tee):
		return usage("TEE %q: wanted one of %s; give --tee or ASHLAR_TEE", tee, strings.Trim(fmt.Sprint(known), "[]"))
	case tee.Simulated() && o.simSocket == "":
		return usage("TEE %s needs the platform's socket: give --sim-socket or ASHLAR_SIM_SOCKET", tee)
	case !tee.Simulated() && o.simSocket != "":
		return usage("a simulation's socket is given, and TEE %s, which is none: give --tee sim:sgx, or leave --sim-socket out", tee)
	case !tee.Simulated() && len(o.measure) > 0:
		return usage("--measure is for simulated TEEs: %s measures the enclave or the VM as a whole", tee)
	}
	return nil
}

// suggest adds the nearest flag to the message about an unknown one.
func suggest(f *flag.FlagSet, err error) error {
	e := problem.New("MRB-001", "%s", err.Error())
	_, unknown, found := strings.Cut(err.Error(), "flag provided but not defined: -")
	if !found {
		return e
	}
	var names []string
	f.VisitAll(func(known *flag.Flag) { names = append(names, known.Name) })
	e.Detail = "unknown flag --" + unknown
	if best := nearest.Word(unknown, names); best != "" {
		e.Detail += ": did you mean --" + best + "?"
	}
	return e
}

// printUsage writes the help text.
func printUsage(w io.Writer) {
	var o options
	f := o.flagSet(func(string) string { return "" })
	fmt.Fprint(w, usageText) //nolint:errcheck // help on a closed pipe
	f.VisitAll(func(fl *flag.Flag) {
		name, usage := flag.UnquoteUsage(fl)
		if fl.DefValue != "" {
			usage += " [" + fl.DefValue + "]"
		}
		fmt.Fprintf(w, "  --%s %s\n        %s\n", fl.Name, name, usage) //nolint:errcheck // help on a closed pipe
	})
	fmt.Fprint(w, exitText) //nolint:errcheck // help on a closed pipe
}

// steering are variables by which the host would have a loader, a runtime or an
// interpreter run code that was not measured, or write out its TLS keys. One
// that ends in _ stands for all that begin so (ld.so(8), and the manuals of the
// runtimes).
var steering = []string{
	"LD_", "GLIBC_TUNABLES", "GCONV_PATH", "BASH_ENV", "ENV", "SSLKEYLOGFILE", "OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES",
	"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONINSPECT", "PYTHONBREAKPOINT", "NODE_OPTIONS", "NODE_PATH", "NODE_EXTRA_CA_CERTS",
	"PERL5LIB", "PERL5OPT", "PERL5DB", "PERLLIB", "RUBYOPT", "RUBYLIB", "LUA_INIT", "LUA_PATH", "LUA_CPATH", "PHPRC", "PHP_INI_SCAN_DIR",
	"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH", "DOTNET_STARTUP_HOOKS", "DOTNET_ADDITIONAL_DEPS", "CORECLR_", "ERL_",
}

func steers(name string) bool {
	return slices.ContainsFunc(steering, func(s string) bool { return name == s || strings.HasSuffix(s, "_") && strings.HasPrefix(name, s) })
}

// environment returns what the program inherits: the environment of this
// process without Ashlar's own variables and those that steer, then set, which
// wins.
func environment(inherited, set []string) (env, dropped []string) {
	given := make(map[string]bool, len(set))
	for _, kv := range set {
		name, _, _ := strings.Cut(kv, "=")
		given[name] = true
	}
	for _, kv := range inherited {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case given[name] || strings.HasPrefix(name, "ASHLAR_"):
		case steers(name):
			dropped = append(dropped, name)
		default:
			env = append(env, kv)
		}
	}
	return append(env, set...), dropped
}
