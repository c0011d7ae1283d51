//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// absent forgives that an optional object is not there.
func absent(err error, optional *bool) error {
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil
	}
	return err
}

// volume makes a volume and returns where it is.
func (p *pod) volume(ctx context.Context, object *core.Pod, v core.Volume) (string, error) {
	dir := filepath.Join(p.dir, "volumes", v.Name)
	switch {
	case v.HostPath != nil:
		return v.HostPath.Path, hostPath(v.HostPath)
	case v.PersistentVolumeClaim != nil:
		return p.claim(ctx, object, v.PersistentVolumeClaim.ClaimName)
	case v.EmptyDir != nil:
		return dir, p.emptyDir(object, dir, v.EmptyDir.Medium)
	}
	files, mode, err := p.content(ctx, object, v.VolumeSource)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for name, f := range files {
		path := filepath.Join(dir, filepath.Join("/", name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		m := mode
		if f.mode != nil {
			m = *f.mode
		}
		if err := p.write(object, path, f.data, fs.FileMode(m)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// write makes a file that the pod's group may read.
func (p *pod) write(object *core.Pod, path, data string, mode fs.FileMode) error {
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		return err
	}
	if sc := object.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		mode |= 0o040
		if err := os.Chown(path, 0, int(*sc.FSGroup)); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

func hostPath(h *core.HostPathVolumeSource) error {
	kind := core.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	if kind == core.HostPathDirectoryOrCreate {
		return os.MkdirAll(h.Path, 0o755)
	}
	info, err := os.Stat(h.Path)
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %s is not there", h.Path)
	}
	ok := map[core.HostPathType]bool{core.HostPathUnset: true, core.HostPathDirectory: info.IsDir(), core.HostPathFile: info.Mode().IsRegular(),
		core.HostPathSocket: info.Mode()&fs.ModeSocket != 0, core.HostPathCharDev: info.Mode()&fs.ModeCharDevice != 0}[kind]
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, kind)
	}
	return nil
}

func (p *pod) emptyDir(object *core.Pod, dir string, medium core.StorageMedium) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if medium == core.StorageMediumMemory && !mounted(dir) {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return err
		}
	}
	return share(object, dir, 0o777)
}

// share gives a folder to the pod's group.
func share(object *core.Pod, dir string, mode fs.FileMode) error {
	if sc := object.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		if err := os.Chown(dir, 0, int(*sc.FSGroup)); err != nil {
			return err
		}
		mode = mode | 0o070 | fs.ModeSetgid
	}
	return os.Chmod(dir, mode)
}

func mounted(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && s.Type == unix.TMPFS_MAGIC
}

// unmount frees the volumes in memory.
func (p *pod) unmount() {
	all, _ := filepath.Glob(filepath.Join(p.dir, "volumes", "*"))
	for _, dir := range all {
		if mounted(dir) {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
}

// claim returns the folder of a claim, and binds it as a provisioner would.
func (p *pod) claim(ctx context.Context, object *core.Pod, name string) (string, error) {
	claims := p.n.cfg.Cluster.Client.CoreV1().PersistentVolumeClaims(p.namespace)
	c, err := claims.Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return "", err
	}
	if c.Status.Phase != core.ClaimBound {
		c.Spec.VolumeName = "folder-" + string(c.UID)
		if c, err = claims.Update(ctx, c, meta.UpdateOptions{}); err != nil {
			return "", err
		}
		c.Status.Phase, c.Status.Capacity, c.Status.AccessModes = core.ClaimBound, c.Spec.Resources.Requests, c.Spec.AccessModes
		if _, err := claims.UpdateStatus(ctx, c, meta.UpdateOptions{}); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(p.n.cfg.Dir, "claims", string(c.UID))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, share(object, dir, 0o755)
}

// file is one file of a volume that the API server has the content of.
type file struct {
	data string
	mode *int32
}

// content returns the files of a volume and their mode.
func (p *pod) content(ctx context.Context, object *core.Pod, v core.VolumeSource) (map[string]file, int32, error) {
	mode := int32(0o644)
	set := func(m *int32) {
		if m != nil {
			mode = *m
		}
	}
	var files map[string]file
	var err error
	switch {
	case v.ConfigMap != nil:
		set(v.ConfigMap.DefaultMode)
		files, err = keyed(v.ConfigMap.Items)(p.configMap(ctx, v.ConfigMap.Name, v.ConfigMap.Optional))
	case v.Secret != nil:
		set(v.Secret.DefaultMode)
		files, err = keyed(v.Secret.Items)(p.secret(ctx, v.Secret.SecretName, v.Secret.Optional))
	case v.DownwardAPI != nil:
		set(v.DownwardAPI.DefaultMode)
		files, err = p.downward(object, v.DownwardAPI.Items)
	case v.Projected != nil:
		set(v.Projected.DefaultMode)
		files, err = p.projected(ctx, object, v.Projected.Sources)
	default:
		err = errors.New("this kind of volume is not known here")
	}
	return files, mode, err
}

// keyed picks items, or all, out of the data of a ConfigMap or a Secret.
func keyed(items []core.KeyToPath) func(map[string]string, error) (map[string]file, error) {
	return func(data map[string]string, err error) (map[string]file, error) {
		files := map[string]file{}
		if err != nil {
			return nil, err
		}
		for _, i := range items {
			v, ok := data[i.Key]
			if !ok && data != nil {
				return nil, fmt.Errorf("references non-existent config key: %s", i.Key)
			}
			files[i.Path] = file{v, i.Mode}
		}
		if len(items) == 0 {
			for k, v := range data {
				files[k] = file{data: v}
			}
		}
		return files, nil
	}
}

func (p *pod) downward(object *core.Pod, items []core.DownwardAPIVolumeFile) (map[string]file, error) {
	files := map[string]file{}
	for _, i := range items {
		if i.FieldRef == nil {
			return nil, errors.New("resourceFieldRef is not known here")
		}
		v, err := p.field(object, i.FieldRef.FieldPath)
		if err != nil {
			return nil, err
		}
		files[i.Path] = file{v, i.Mode}
	}
	return files, nil
}

func (p *pod) projected(ctx context.Context, object *core.Pod, sources []core.VolumeProjection) (map[string]file, error) {
	all := map[string]file{}
	for _, s := range sources {
		var files map[string]file
		var err error
		switch {
		case s.ConfigMap != nil:
			files, err = keyed(s.ConfigMap.Items)(p.configMap(ctx, s.ConfigMap.Name, s.ConfigMap.Optional))
		case s.Secret != nil:
			files, err = keyed(s.Secret.Items)(p.secret(ctx, s.Secret.Name, s.Secret.Optional))
		case s.DownwardAPI != nil:
			files, err = p.downward(object, s.DownwardAPI.Items)
		case s.ServiceAccountToken != nil:
			files, err = p.token(ctx, object, s.ServiceAccountToken)
		default:
			err = errors.New("this source of a projected volume is not known here")
		}
		if err != nil {
			return nil, err
		}
		for k, f := range files {
			all[k] = f
		}
	}
	return all, nil
}

// token asks for a token that is bound to the pod.
func (p *pod) token(ctx context.Context, object *core.Pod, s *core.ServiceAccountTokenProjection) (map[string]file, error) {
	req := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef: &authentication.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: object.Name, UID: object.UID}}}
	if s.Audience != "" {
		req.Spec.Audiences = []string{s.Audience}
	}
	t, err := p.n.cfg.Cluster.Client.CoreV1().ServiceAccounts(p.namespace).CreateToken(ctx, object.Spec.ServiceAccountName, req, meta.CreateOptions{})
	if err != nil {
		return nil, err
	}
	mode := int32(0o644)
	return map[string]file{s.Path: {t.Status.Token, &mode}}, nil
}
