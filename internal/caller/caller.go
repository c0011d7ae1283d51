// Package caller says what the connections and requests of a remote peer are
// counted by. It owns no counts.
package caller

import (
	"net"
	"net/netip"
)

// Of returns the IPv4 address of a peer, or the /64 that its IPv6 address lies in;
// of anything else the zero Addr.
func Of(a net.Addr) netip.Addr {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	addr := p.Addr().Unmap().WithZone("")
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return addr
}
