package oci

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// reach says who can get to an address. A registry may send us to where it could be itself, and
// never further in: a public one to public addresses only.
type reach int

const (
	reachUnknown reach = iota
	reachPublic
	reachPrivate  // this site's
	reachLoopback // this host's
	reachNever    // what no registry lives at: link-local (a cloud's metadata), multicast
)

// reachOf looks at an address, also at the one inside of an IPv6 address that carries one.
func reachOf(a netip.Addr) reach {
	a = a.Unmap()
	b := a.As16()
	if a.Is6() && netip.MustParsePrefix("64:ff9b::/96").Contains(a) { // RFC 6052
		a = netip.AddrFrom4([4]byte(b[12:]))
	} else if a.Is6() && netip.MustParsePrefix("2002::/16").Contains(a) { // RFC 3056
		a = netip.AddrFrom4([4]byte(b[2:6]))
	}
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.Is4() && a.As4()[0] == 0:
		return reachLoopback
	case a.IsLinkLocalUnicast(), a.IsMulticast(), a.Is4() && a.As4()[0] >= 240:
		return reachNever
	case a.IsPrivate(), netip.MustParsePrefix("100.64.0.0/10").Contains(a): // RFC 6598
		return reachPrivate
	}
	return reachPublic
}

// reachOfHost looks at a name without asking DNS.
func reachOfHost(host string, of func(netip.Addr) reach) reach {
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return of(a)
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return reachLoopback
	}
	return reachUnknown
}

// isOwnHost reports whether a registry is on this host by its name alone, and so needs no TLS.
func isOwnHost(hostname string) bool {
	a, err := netip.ParseAddr(hostname)
	return hostname == "localhost" || err == nil && a.IsLoopback()
}

// errReach is of a connection that a redirect may not have.
var errReach = errors.New("a registry may not send us there")

// allowed says how far in a connection may go.
type allowed struct{}

// newTransport makes the transport to registries, or the one to where they send us: it goes no
// further in than its request's context says.
func (c *Client) newTransport(foreign bool) *http.Transport {
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := c.tune.dial(ctx, network, address, nil)
			if err == nil {
				c.noteReach(address, conn)
			}
			return conn, err
		},
		Proxy:                  func(r *http.Request) (*url.URL, error) { return c.proxy(r) },
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		DisableCompression:     true, // bytes are hashed as they are stored
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 256 << 10,
		MaxIdleConnsPerHost:    c.tune.parallel,
		IdleConnTimeout:        30 * time.Second,
	}
	if foreign {
		t.Proxy = nil              // those with a proxy take the other transport, see send
		t.DisableKeepAlives = true // each connection is judged for its own registry
		t.ForceAttemptHTTP2 = false
		t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			most, _ := ctx.Value(allowed{}).(reach)
			return c.tune.dial(ctx, network, address, func(a netip.Addr) error {
				if c.tune.reachOf(a) > most {
					return errReach
				}
				return nil
			})
		}
	}
	return t
}

// dial connects, after check has seen the address that DNS gave.
func dial(ctx context.Context, network, address string, check func(netip.Addr) error) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second}
	if check != nil {
		d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return errReach
			}
			return check(ap.Addr())
		}
	}
	return d.DialContext(ctx, network, address)
}

// noteReach remembers where a registry turned out to be.
func (c *Client) noteReach(address string, conn net.Conn) {
	ap, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reach[address] = c.tune.reachOf(ap.Addr())
}

// reachOfURL says where a registry is. One behind a proxy is public unless its name says
// otherwise.
func (c *Client) reachOfURL(u *url.URL) reach {
	if r := reachOfHost(u.Hostname(), c.tune.reachOf); r != reachUnknown {
		return r.leading()
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reach[net.JoinHostPort(u.Hostname(), port)].leading()
}

// leading is how far in a registry that is at r may send us.
func (r reach) leading() reach {
	switch r {
	case reachUnknown:
		return reachPublic
	case reachNever:
		return reachPrivate
	}
	return r
}

// checkHop refuses to go from a registry, or from where it sent us, to another address.
func (c *Client) checkHop(registry, from, to *url.URL) error {
	switch {
	case to.Scheme == "https", to.Scheme == "http" && from.Scheme == "http":
	default:
		return redirectError("from %s to an address that begins with %s:", plain(from.Host), quote(to.Scheme))
	}
	if to.User != nil || to.Hostname() == "" {
		return redirectError("to an address without a host, or with a user in it")
	}
	if sameHost(registry, to) {
		return nil
	}
	if r := reachOfHost(to.Hostname(), c.tune.reachOf); r > c.reachOfURL(registry) {
		return redirectError("to %s, which is no address for it to send us to", quote(to.Host))
	}
	return nil
}

// sameHost reports whether two addresses are of one server.
func sameHost(a, b *url.URL) bool { return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host) }

func redirectError(format string, args ...any) error {
	return machine.Errorf("peer.redirect", remedyRegistry, "the registry sends us "+format, args...)
}
