// Command controlplane is a Kubernetes control plane in one file: etcd,
// kube-apiserver or kube-controller-manager, whichever name it is called by.
// Tests start it under each of them; nothing that is shipped contains it. It
// is a module of its own so that its dependencies stay out of Ashlar's.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(manager.NewControllerManagerCommand()))
	default:
		fmt.Fprintf(os.Stderr, "controlplane: called %q; call it etcd, kube-apiserver or kube-controller-manager\n", name)
		os.Exit(2)
	}
}
