package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/ashlar-mesh/ashlar/attest"
	"github.com/ashlar-mesh/ashlar/attest/issuer"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/bolt"
	"github.com/ashlar-mesh/ashlar/coordinator/internal/store/etcd"
	"github.com/ashlar-mesh/ashlar/internal/commandline"
	"github.com/ashlar-mesh/ashlar/internal/nearest"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

const usage = `ashlar-coordinator keeps the state of one deployment and decides who joins it.

  ashlar-coordinator init --state DIR
  ashlar-coordinator run  --state DIR

several of them on one state, of which one is active and the others stand by:

  ashlar-coordinator init --store etcd://HOST:PORT/PREFIX --state DIR
  ashlar-coordinator run  --store etcd://HOST:PORT/PREFIX --state DIR --reach HOST

in the TEE that they find themselves in; without one, as a simulation:

  ashlar-coordinator init --state DIR --tee sim:sgx --sim-socket SOCKET --sim-root root.pem

Commands
  init      make the state of a new coordinator, once
  run       serve the state until SIGTERM
  restore   put a backup's state into a new folder: restore --from FILE --state DIR;
            with --store under a prefix of etcd that is empty
  version   print the version

Each flag can be given as an environment variable: --sim-root is ASHLAR_SIM_ROOT.
`

// Main runs the program with args (without its name) and returns its exit code.
func Main(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	return commandline.Exit(stderr, dispatch(args, getenv, stdout, stderr))
}

func dispatch(args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return problem.New("CRD-130", "no command was given; wanted init, run or version").WithNext("ashlar-coordinator help")
	}
	name, args := args[0], args[1:]
	switch name {
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		newFlags(new(options), getenv, stdout).PrintDefaults()
		return nil
	case "version", "--version":
		fmt.Fprintf(stdout, "ashlar-coordinator %s (%s, %s/%s)\n", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	case "restore":
		return restore(args, getenv, stdout)
	case "init", "run":
		return execute(name, args, getenv, stdout, stderr)
	}
	e := problem.New("CRD-130", "unknown command %q; wanted init, run, restore or version", name).WithNext("ashlar-coordinator help")
	if best := nearest.Word(name, []string{"init", "run", "restore", "version", "help"}); best != "" {
		e = e.WithNext("did you mean %q?", best)
	}
	return e
}

// options are the flags of init and run.
type options struct {
	Config
	tee, advertise, logFormat string
	pccs, kds, until          string
	debug                     bool
}

func newFlags(o *options, getenv func(string) string, out io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("ashlar-coordinator", flag.ContinueOnError)
	f.SetOutput(out)
	text := commandline.Text(f, getenv)
	text(&o.State, "state", "", "folder of the state; with --store of this replica's sealed key")
	text(&o.Store, "store", "", "where several coordinators keep one state: etcd://HOST:PORT,HOST:PORT/PREFIX?ca=FILE&cert=FILE&key=FILE (or ?tls=off)")
	text(&o.Replica, "replica", "", "name of this one among them; the host's name if empty")
	text(&o.Reach, "reach", "", "DNS name or IP by which the other replicas reach this one's client and mesh ports; needed with --store unless both listen on one IP")
	text(&o.tee, "tee", string(issuer.Auto), "TEE that the coordinator runs in: auto, sgx, snp and others; or sim:sgx, sim:tdx")
	text(&o.Seal, "seal", "product", "who may open the state until a manifest says otherwise: product (any release), unique (this very program) or none (with --seal-source alone)")
	text(&o.SealSource, "seal-source", "", "a token that is needed too to open the state: pkcs11:module=PATH,token=LABEL,key=LABEL,pin-file=PATH (or pin-env=NAME)")
	text(&o.SimSocket, "sim-socket", "", "socket of the simulation platform")
	text(&o.SimRoot, "sim-root", "", "root certificate of the simulation platform, PEM file; accepts SIMULATED evidence")
	text(&o.TPMRoots, "tpm-roots", "", "certificates of the CAs that may stand for the key of a TPM, PEM file; without them packages have to list keys")
	text(&o.pccs, "pccs", "", "addresses of Intel's service or of caches of it (PCCS), comma separated, such as https://pccs.example:8081")
	text(&o.kds, "kds", "", "addresses of AMD's key service (KDS), comma separated, such as https://kdsintf.amd.com")
	text(&o.Endorsements, "endorsements", "", "folder with the vendors' documents: TEE/FMSPC/, snp/CHIPID/ and snp/vlek/; what is fetched or imported is kept in it")
	text(&o.Owner, "owner", "", "certificate of who alone may set the first manifest, PEM file")
	text(&o.ClientAddr, "client-addr", DefaultClientAddr, "where the client API listens")
	text(&o.MeshAddr, "mesh-addr", DefaultMeshAddr, "where the marble API listens")
	text(&o.MetricsAddr, "metrics-addr", DefaultMetricsAddr, "where metrics and probes listen")
	text(&o.until, "until", "", "of init: make a state before this time (RFC 3339) alone, and leave one that exists as it is; for what starts a coordinator again and again")
	text(&o.advertise, "advertise", "", "further DNS names and IPs of this coordinator, comma separated")
	text(&o.logFormat, "log-format", "text", "text or json")
	f.BoolVar(&o.debug, "debug", getenv("ASHLAR_DEBUG") == "true", "log more")
	return f
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	var o options
	flags := newFlags(&o, getenv, io.Discard)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return o, err
	case err != nil:
		return o, badFlags(flags, err)
	case flags.NArg() > 0:
		return o, problem.New("CRD-130", "unexpected argument %q", flags.Arg(0)).WithNext("ashlar-coordinator help")
	case o.logFormat != "text" && o.logFormat != "json":
		return o, invalid("log-format", "wanted text or json, got %q", o.logFormat)
	}
	o.TEE = attest.TEE(o.tee)
	for _, list := range []struct {
		text string
		into *[]string
	}{{o.advertise, &o.Advertise}, {o.pccs, &o.PCCS}, {o.kds, &o.KDS}} {
		if list.text != "" {
			*list.into = strings.Split(list.text, ",")
		}
	}
	o.Log = commandline.Log(stderr, o.logFormat, o.debug)
	return o, nil
}

// badFlags says what is wrong with the flags.
func badFlags(flags *flag.FlagSet, err error) error {
	return commandline.Suggest(flags, problem.New("CRD-130", "%v", err).WithNext("ashlar-coordinator help"))
}

func execute(name string, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o, err := parse(args, getenv, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return dispatch([]string{"help"}, getenv, stdout, stderr)
	}
	if err != nil {
		return err
	}
	ctx, force, stop := signals()
	defer stop()
	if name == "init" {
		return begin(ctx, o, stdout)
	}
	if o.until != "" {
		return invalid("until", "it is for init: run makes no state")
	}
	o.Force = force
	err = Run(ctx, o.Config)
	if problem.CodeOf(err) == "STO-002" {
		flags := "--state " + o.State
		if o.Store != "" {
			flags = "--store " + o.Store + " " + flags
		}
		return problem.New("STO-002", "nothing to run: %s", problem.From(err).Detail).WithNext("ashlar-coordinator init %s makes it, once", flags)
	}
	return err
}

// begin makes the state of a new coordinator. With --until it does so as long
// as that is time, and leaves a state, or what is left of one, to run.
func begin(ctx context.Context, o options, stdout io.Writer) error {
	place := o.State
	if o.Store != "" {
		place, _, _ = strings.Cut(o.Store, "?")
	}
	if o.until != "" && o.State != "" {
		until, err := time.Parse(time.RFC3339, o.until)
		if err != nil {
			return invalid("until", "wanted a time such as 2026-01-02T15:04:05Z, got %q", o.until)
		}
		there, err := look(ctx, o.Config)
		switch {
		case err != nil:
			return err
		case there == bolt.Present:
			return nothingMade(place, stdout)
		case there == bolt.Incomplete:
			fmt.Fprintf(stdout, "There is a part of a state in %s; nothing was made.\n", o.State)
			return nil
		case time.Now().After(until):
			return problem.New("STO-002", "%s holds no state, and none is made after %s", place, o.until).
				WithNext("put the volume or a backup back; only if this deployment never had a state, give a later time to make one")
		}
	}
	err := Init(ctx, o.Config)
	if o.until != "" && o.Store != "" && problem.CodeOf(err) == "STO-001" { // another replica was faster
		return nothingMade(place, stdout)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Made the state of a new coordinator in %s.\nnext: ashlar-coordinator run with the same flags\n", place)
	return nil
}

func nothingMade(place string, stdout io.Writer) error {
	fmt.Fprintf(stdout, "There is a state in %s; nothing was made.\n", place)
	return nil
}

// look says what state there is.
func look(ctx context.Context, c Config) (bolt.Presence, error) {
	if c.Store == "" {
		return bolt.Look(c.State)
	}
	s, err := c.check()
	if err != nil {
		return bolt.Absent, err
	}
	cluster, err := etcd.Dial(ctx, s.shared)
	if err != nil {
		return bolt.Absent, err
	}
	defer cluster.Close()
	return s.lookShared(ctx, cluster)
}

// signals returns a context that the first SIGTERM or SIGINT ends, and a
// channel that the second closes.
func signals() (context.Context, <-chan struct{}, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	force, quit := make(chan struct{}), make(chan struct{})
	came := make(chan os.Signal, 2)
	signal.Notify(came, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, act := range []func(){cancel, func() { close(force) }} {
			select {
			case <-came:
				act()
			case <-quit:
				return
			}
		}
	}()
	return ctx, force, func() {
		signal.Stop(came)
		close(quit)
		<-done
		cancel()
	}
}
