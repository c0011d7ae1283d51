//go:build linux

package node

import (
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// The cluster's DNS, as pods' resolv.conf names it.
const (
	dnsIP  = "10.96.0.10"
	domain = "cluster.local"
)

// serveDNS answers questions for names of the cluster; the proxy's lock is held.
func (p *proxy) serveDNS() {
	p.claim(dnsIP)
	conn, err := net.ListenPacket("udp", dnsIP+":53")
	if err != nil {
		return // the next round tries again
	}
	p.dns = conn
	p.work.Go(func() {
		b := make([]byte, 1232)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if reply := p.answer(b[:n]); reply != nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	})
}

// answer builds the reply to one question; nil is none.
func (p *proxy) answer(question []byte) []byte {
	var parser dnsmessage.Parser
	h, err := parser.Start(question)
	if err != nil {
		return nil
	}
	q, err := parser.Question()
	if err != nil {
		return nil
	}
	ips := p.resolve(q.Name.String())
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	if len(ips) == 0 {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, ip := range ips {
		addr, err := netip.ParseAddr(ip)
		if err == nil && addr.Is4() && q.Type == dnsmessage.TypeA {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: addr.As4()}})
		}
	}
	b, err := reply.Pack()
	if err != nil {
		return nil
	}
	return b
}
