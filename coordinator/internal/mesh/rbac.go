package mesh

import (
	"regexp"
	"slices"
	"strings"

	rbac "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ashlar-mesh/ashlar/internal/problem"
)

// policies grants each caller what its edge says. Without any policy Envoy
// denies everybody, which is what no caller means.
func (c *compiler) policies(callers []caller) (*rbac.RBAC, error) {
	rules := &rbac.RBAC{Action: rbac.RBAC_ALLOW, Policies: map[string]*rbac.Policy{}}
	for _, from := range callers {
		perm, err := permission(from.routes)
		if err != nil {
			return nil, err
		}
		if known, again := rules.Policies[from.marble]; again {
			known.Permissions = append(known.Permissions, perm)
			continue
		}
		rules.Policies[from.marble] = &rbac.Policy{
			Permissions: []*rbac.Permission{perm},
			Principals:  []*rbac.Principal{c.principal(from.marble)},
		}
	}
	return rules, nil
}

// principal is a marble, without its barred instances: the subject of a leaf
// names the instance, whichever of its leaves it is.
func (c *compiler) principal(marble string) *rbac.Principal {
	is := named(c.spiffeID(marble))
	if len(c.barred[marble]) == 0 {
		return is
	}
	barred := &rbac.Principal_Set{}
	for _, id := range c.barred[marble] {
		barred.Ids = append(barred.Ids, named("serialNumber="+id+",CN="+marble))
	}
	not := &rbac.Principal{Identifier: &rbac.Principal_NotId{NotId: &rbac.Principal{Identifier: &rbac.Principal_OrIds{OrIds: barred}}}}
	return &rbac.Principal{Identifier: &rbac.Principal_AndIds{AndIds: &rbac.Principal_Set{Ids: []*rbac.Principal{is, not}}}}
}

// named matches a certificate by one of its alternative names, or by its subject
// as RFC 2253 writes it.
func named(name string) *rbac.Principal {
	return &rbac.Principal{Identifier: &rbac.Principal_Authenticated_{
		Authenticated: &rbac.Principal_Authenticated{PrincipalName: exactly(name)},
	}}
}

// permission allows the routes; nil allows all, an empty list nothing.
func permission(routes []string) (*rbac.Permission, error) {
	if routes == nil {
		return &rbac.Permission{Rule: &rbac.Permission_Any{Any: true}}, nil
	}
	if len(routes) == 0 {
		return &rbac.Permission{Rule: &rbac.Permission_NotRule{
			NotRule: &rbac.Permission{Rule: &rbac.Permission_Any{Any: true}},
		}}, nil
	}
	set := &rbac.Permission_Set{}
	for _, r := range slices.Sorted(slices.Values(routes)) {
		p, err := routePermission(r)
		if err != nil {
			return nil, err
		}
		set.Rules = append(set.Rules, p)
	}
	return &rbac.Permission{Rule: &rbac.Permission_OrRules{OrRules: set}}, nil
}

var routeForm = regexp.MustCompile(`^([A-Z]{3,16}|\*) (/[^ ?#*]*)(\*?)$`)

// routePermission turns "GET /items/*" into a rule: a method, or * for any, and
// a path without its query, exact or everything below a trailing *. Below a *,
// paths that not every program reads alike are left out: see ambiguous.
func routePermission(r string) (*rbac.Permission, error) {
	parts := routeForm.FindStringSubmatch(r)
	if parts == nil || len(r) > 512 {
		return nil, problem.New("MSH-013", "wanted METHOD /path, got %q", r)
	}
	method, path, below := parts[1], exactly(parts[2]), parts[3] != ""
	if below {
		path = &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Prefix{Prefix: parts[2]}}
	}
	onPath := urlPath(path)
	if below {
		onPath = allOf(onPath, &rbac.Permission{Rule: &rbac.Permission_NotRule{NotRule: urlPath(ambiguous)}})
	}
	if strings.HasPrefix(method, "*") {
		return onPath, nil
	}
	onMethod := &rbac.Permission{Rule: &rbac.Permission_Header{Header: &route.HeaderMatcher{
		Name: ":method", HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{StringMatch: exactly(method)},
	}}}
	return allOf(onMethod, onPath), nil
}

// ambiguous matches paths that programs read in different ways, so that a
// prefix says nothing about where they lead: many servers cut ";parameters" out
// of segments before they resolve "..", so that "/items/..;/x", which begins
// with "/items/" for a proxy, is "/x" for them.
var ambiguous = &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{
	SafeRegex: &matcher.RegexMatcher{Regex: "(?s).*(;|%3[bB]).*"},
}}

func urlPath(m *matcher.StringMatcher) *rbac.Permission {
	return &rbac.Permission{Rule: &rbac.Permission_UrlPath{UrlPath: &matcher.PathMatcher{Rule: &matcher.PathMatcher_Path{Path: m}}}}
}

func allOf(rules ...*rbac.Permission) *rbac.Permission {
	return &rbac.Permission{Rule: &rbac.Permission_AndRules{AndRules: &rbac.Permission_Set{Rules: rules}}}
}
