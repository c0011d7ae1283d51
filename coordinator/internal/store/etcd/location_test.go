package etcd

import (
	"reflect"
	"strings"
	"testing"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

func TestParseLocation(t *testing.T) {
	for text, want := range map[string]Location{
		"etcd://a:2379/ashlar":                               {Endpoints: []string{"a:2379"}, Prefix: "/ashlar/"},
		"etcd://a:1,[::1]:2,10.0.0.1:3/ashlar/shop/?tls=off": {Endpoints: []string{"a:1", "[::1]:2", "10.0.0.1:3"}, Prefix: "/ashlar/shop/", Plain: true},
		"etcd://a:1/x?ca=/c/ca.crt&cert=/c/t.crt&key=/c/t.k": {Endpoints: []string{"a:1"}, Prefix: "/x/", CA: "/c/ca.crt", Cert: "/c/t.crt", Key: "/c/t.k"},
	} {
		got, err := ParseLocation(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func TestParseLocationRefuses(t *testing.T) {
	for _, text := range []string{
		"", "bbolt:///state", "http://a:1/x", "etcd://", "etcd:///x", "etcd://a:1", "etcd://a:1/", "etcd://a/x", "etcd://a:1,/x", "etcd://:1/x",
		"etcd://user@a:1/x", "etcd://a:1/x y", "etcd://a:1/x?tls=on", "etcd://a:1/x?tls=off&ca=/c", "etcd://a:1/x?cert=/c", "etcd://a:1/x?ca=",
		"etcd://a:1/x?ca=/a&ca=/b", "etcd://a:1/x?password=p", "etcd://a:1/x?%zz", "etcd://" + strings.Repeat("a:1,", 9) + "a:1/x",
	} {
		if _, err := ParseLocation(text); problem.CodeOf(err) != "STO-030" {
			t.Errorf("%q: got %v, want STO-030", text, err)
		}
	}
}
