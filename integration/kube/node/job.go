//go:build linux

package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// job is what the process of a container is told to become.
type job struct {
	Hostname string
	Root     string // an empty folder
	Mounts   []mount
	ReadOnly bool // the root
	User     int
	Group    int
	Groups   []int
	Drop     bool     // all capabilities but Keep
	Keep     []string // without CAP_
	Raise    bool     // allowPrivilegeEscalation
	Dir      string
	Argv     []string
	Env      []string
}

// mount is a bind mount.
type mount struct {
	From, To string
	ReadOnly bool
}

// job gathers what a run of the container needs.
func (c *container) job(ctx context.Context, object *core.Pod, image Image) (*job, error) {
	j := &job{Hostname: object.Name, Root: c.file("root"), Dir: c.spec.WorkingDir, User: int(image.User)}
	if object.Spec.Hostname != "" {
		j.Hostname = object.Spec.Hostname
	}
	if err := os.RemoveAll(c.file("")); err != nil { // each run has a root of its own
		return nil, err
	}
	if err := os.MkdirAll(c.file("etc"), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(j.Root, 0o755); err != nil {
		return nil, err
	}
	if err := c.files(j, object); err != nil {
		return nil, err
	}
	for to, from := range image.Files {
		j.Mounts = append(j.Mounts, mount{from, to, true})
	}
	for _, m := range c.spec.VolumeMounts {
		from, ok := c.p.volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("no volume %q", m.Name)
		}
		if m.SubPath != "" {
			from = filepath.Join(from, filepath.Join("/", m.SubPath))
		}
		j.Mounts = append(j.Mounts, mount{from, m.MountPath, m.ReadOnly})
	}
	slices.SortStableFunc(j.Mounts, func(a, b mount) int { return strings.Compare(a.To, b.To) })
	if err := c.security(j, object); err != nil {
		return nil, err
	}
	return j, c.command(ctx, j, object, image)
}

// files writes what a kubelet puts below /etc.
func (c *container) files(j *job, object *core.Pod) error {
	search := object.Namespace + ".svc." + domain + " svc." + domain + " " + domain
	hosts := "127.0.0.1 localhost\n" + c.p.net.ip + " " + j.Hostname + "\n"
	for name, text := range map[string]string{
		"resolv.conf": "nameserver " + dnsIP + "\nsearch " + search + "\noptions ndots:5\n",
		"hosts":       hosts, "hostname": j.Hostname + "\n",
	} {
		if err := os.WriteFile(c.file("etc/"+name), []byte(text), 0o644); err != nil {
			return err
		}
		j.Mounts = append(j.Mounts, mount{c.file("etc/" + name), "/etc/" + name, false})
	}
	path := c.spec.TerminationMessagePath
	if path == "" {
		path = core.TerminationMessagePathDefault
	}
	j.Mounts = append(j.Mounts, mount{c.file("termination-log"), path, false})
	if err := os.WriteFile(c.file("termination-log"), nil, 0o666); err != nil {
		return err
	}
	return os.Chmod(c.file("termination-log"), 0o666)
}

// security applies the container's and the pod's security contexts.
func (c *container) security(j *job, object *core.Pod) error {
	pod, own := object.Spec.SecurityContext, c.spec.SecurityContext
	if pod == nil {
		pod = &core.PodSecurityContext{}
	}
	if own == nil {
		own = &core.SecurityContext{}
	}
	first := func(a, b *int64, to *int) {
		if b != nil {
			*to = int(*b)
		}
		if a != nil {
			*to = int(*a)
		}
	}
	first(own.RunAsUser, pod.RunAsUser, &j.User)
	first(own.RunAsGroup, pod.RunAsGroup, &j.Group)
	for _, g := range pod.SupplementalGroups {
		j.Groups = append(j.Groups, int(g))
	}
	if pod.FSGroup != nil {
		j.Groups = append(j.Groups, int(*pod.FSGroup))
	}
	if j.User == 0 && (isTrue(own.RunAsNonRoot) || own.RunAsNonRoot == nil && isTrue(pod.RunAsNonRoot)) {
		return fmt.Errorf("container has runAsNonRoot and image will run as root")
	}
	j.ReadOnly = isTrue(own.ReadOnlyRootFilesystem)
	j.Raise = own.AllowPrivilegeEscalation == nil || *own.AllowPrivilegeEscalation
	if own.Capabilities != nil {
		j.Drop = slices.Contains(own.Capabilities.Drop, "ALL")
		for _, k := range own.Capabilities.Add {
			j.Keep = append(j.Keep, string(k))
		}
	}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }

// command sets the command line and the environment, with $(NAME) expanded.
func (c *container) command(ctx context.Context, j *job, object *core.Pod, image Image) error {
	values := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME": j.Hostname,
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443"}
	if j.User == 0 {
		values["HOME"] = "/root"
	}
	for _, e := range image.Env {
		name, value, _ := strings.Cut(e, "=")
		values[name] = value
	}
	if err := c.environment(ctx, object, values); err != nil {
		return err
	}
	for name, value := range values {
		j.Env = append(j.Env, name+"="+value)
	}
	slices.Sort(j.Env)
	command, args := c.spec.Command, c.spec.Args
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	for _, a := range slices.Concat(command, args) {
		j.Argv = append(j.Argv, expand(a, values))
	}
	if len(j.Argv) == 0 {
		return fmt.Errorf("no command specified")
	}
	return nil
}

// environment adds the container's variables, in order.
func (c *container) environment(ctx context.Context, object *core.Pod, values map[string]string) error {
	for _, from := range c.spec.EnvFrom {
		data := map[string]string{}
		var err error
		switch {
		case from.ConfigMapRef != nil:
			data, err = c.p.configMap(ctx, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		case from.SecretRef != nil:
			data, err = c.p.secret(ctx, from.SecretRef.Name, from.SecretRef.Optional)
		}
		if err != nil {
			return err
		}
		for k, v := range data {
			values[from.Prefix+k] = v
		}
	}
	for _, e := range c.spec.Env {
		v, ok, err := c.variable(ctx, object, e, values)
		if err != nil {
			return err
		}
		if ok {
			values[e.Name] = v
		}
	}
	return nil
}

// variable returns one variable's value; not ok is an optional one that is not
// there.
func (c *container) variable(ctx context.Context, object *core.Pod, e core.EnvVar, values map[string]string) (string, bool, error) {
	from := e.ValueFrom
	switch {
	case from == nil:
		return expand(e.Value, values), true, nil
	case from.FieldRef != nil:
		v, err := c.p.field(object, from.FieldRef.FieldPath)
		return v, true, err
	case from.ConfigMapKeyRef != nil:
		data, err := c.p.configMap(ctx, from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Optional)
		return pick(data, from.ConfigMapKeyRef.Key, from.ConfigMapKeyRef.Optional, err)
	case from.SecretKeyRef != nil:
		data, err := c.p.secret(ctx, from.SecretKeyRef.Name, from.SecretKeyRef.Optional)
		return pick(data, from.SecretKeyRef.Key, from.SecretKeyRef.Optional, err)
	}
	return "", false, fmt.Errorf("variable %s: this source is not known here", e.Name)
}

func pick(data map[string]string, key string, optional *bool, err error) (string, bool, error) {
	v, ok := data[key]
	if err == nil && !ok && !isTrue(optional) {
		err = fmt.Errorf("couldn't find key %s", key)
	}
	return v, ok, err
}

// field reads a field of the pod, as the downward API names it.
func (p *pod) field(object *core.Pod, path string) (string, error) {
	if name, ok := subscript(path, "metadata.annotations"); ok {
		return object.Annotations[name], nil
	}
	if name, ok := subscript(path, "metadata.labels"); ok {
		return object.Labels[name], nil
	}
	switch path {
	case "metadata.annotations":
		return lines(object.Annotations), nil
	case "metadata.labels":
		return lines(object.Labels), nil
	case "status.podIP", "status.podIPs":
		return p.net.ip, nil
	case "status.hostIP":
		return "10.77.0.1", nil
	}
	set := fields.Set{"metadata.name": object.Name, "metadata.namespace": object.Namespace, "metadata.uid": string(object.UID),
		"spec.nodeName": object.Spec.NodeName, "spec.serviceAccountName": object.Spec.ServiceAccountName}
	if !set.Has(path) {
		return "", fmt.Errorf("field %s is not known here", path)
	}
	return set.Get(path), nil
}

func subscript(path, of string) (string, bool) {
	rest, ok := strings.CutPrefix(path, of+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "']")
}

func lines(m map[string]string) string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+strconv.Quote(v)+"\n")
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// expand replaces $(NAME) by its value where there is one; $$ is a dollar sign.
func expand(s string, values map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		end := strings.IndexByte(s[i:], ')')
		switch {
		case s[i+1] == '$':
			b.WriteByte('$')
			i++
		case s[i+1] == '(' && end > 0:
			v, ok := values[s[i+2:i+end]]
			if !ok {
				v = s[i : i+end+1]
			}
			b.WriteString(v)
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

func (p *pod) configMap(ctx context.Context, name string, optional *bool) (map[string]string, error) {
	m, err := p.n.cfg.Cluster.Client.CoreV1().ConfigMaps(p.namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return nil, absent(err, optional)
	}
	out := map[string]string{}
	for k, v := range m.Data {
		out[k] = v
	}
	for k, v := range m.BinaryData {
		out[k] = string(v)
	}
	return out, nil
}

func (p *pod) secret(ctx context.Context, name string, optional *bool) (map[string]string, error) {
	m, err := p.n.cfg.Cluster.Client.CoreV1().Secrets(p.namespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return nil, absent(err, optional)
	}
	out := map[string]string{}
	for k, v := range m.Data {
		out[k] = string(v)
	}
	return out, nil
}
