package injector

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/ashlar-mesh/ashlar/internal/commandline"
	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// Version of the program; the build sets it.
var Version = "devel"

const usage = `ashlar-injector makes of pods with the label ashlar.dev/marble pods of a mesh,
and writes how far each has come into its condition ashlar.dev/attested.

  ashlar-injector --config /etc/ashlar/settings.json

ashlar install puts it into a cluster. Outside of one it takes the cluster of a
kubeconfig:

  ashlar-injector --config settings.json --kubeconfig ~/.kube/config

Each flag can be given as an environment variable: --ops-addr is ASHLAR_OPS_ADDR.
`

// Main runs the program with args (without its name) and returns its exit code.
func Main(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	return commandline.Exit(stderr, execute(args, getenv, stdout, stderr))
}

// options are the flags.
type options struct {
	Config
	config, kubeconfig, logFormat string
	debug, version                bool
}

func newFlags(o *options, getenv func(string) string) *flag.FlagSet {
	f := flag.NewFlagSet("ashlar-injector", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	text := commandline.Text(f, getenv)
	text(&o.config, "config", "", "file with the settings, JSON")
	text(&o.Addr, "addr", ":9443", "where the webhook listens")
	text(&o.OpsAddr, "ops-addr", ":9944", "where metrics and probes listen")
	text(&o.kubeconfig, "kubeconfig", "", "kubeconfig of the cluster; the one that the injector runs in if empty")
	text(&o.Name, "name", "", "name of this replica among the others, such as its pod's; one is made up if empty")
	text(&o.logFormat, "log-format", "json", "text or json")
	f.BoolVar(&o.debug, "debug", getenv("ASHLAR_DEBUG") == "true", "log more")
	f.BoolVar(&o.version, "version", false, "print the version")
	return f
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	var o options
	flags := newFlags(&o, getenv)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp) || err == nil && o.version:
		return o, err
	case err != nil:
		return o, commandline.Suggest(flags, problem.New("KUB-070", "%v", err))
	case flags.NArg() > 0:
		return o, problem.New("KUB-070", "unexpected argument %q", flags.Arg(0))
	case o.config == "":
		return o, problem.New("KUB-070", "--config is missing")
	case o.logFormat != "text" && o.logFormat != "json":
		return o, problem.New("KUB-070", "--log-format: wanted text or json, got %q", o.logFormat)
	}
	for name, addr := range map[string]string{"addr": o.Addr, "ops-addr": o.OpsAddr} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return o, problem.New("KUB-070", "--%s: wanted HOST:PORT or :PORT, got %q", name, addr)
		}
	}
	o.Log = commandline.Log(stderr, o.logFormat, o.debug)
	return o, nil
}

func execute(args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o, err := parse(args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		flags := newFlags(new(options), getenv)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return nil
	case err != nil:
		return err
	case o.version:
		fmt.Fprintf(stdout, "ashlar-injector %s (%s, %s/%s)\n", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	}
	if o.Settings, err = readSettings(o.config); err != nil {
		return err
	}
	access, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return problem.Because(err, "KUB-072", "reading the access to the cluster")
	}
	access.UserAgent = "ashlar-injector/" + Version
	access.QPS, access.Burst = 50, 100
	if o.Cluster, err = kubernetes.NewForConfig(access); err != nil {
		return problem.Because(err, "KUB-072", "the access to the cluster")
	}
	if o.Name == "" {
		host, _ := os.Hostname() // the rest of the name suffices
		o.Name = host + "-" + strings.ToLower(rand.Text()[:8])
	}
	klog.SetSlogLogger(o.Log)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return Run(ctx, o.Config)
}
