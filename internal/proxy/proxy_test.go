package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/egress"
)

// world is what is outside: names with their addresses, and servers that count who comes.
type world struct {
	t       *testing.T
	mu      sync.Mutex
	names   map[string][]string // addresses
	servers map[string]string   // "address:port" to where it really listens
	dialled []string
	looked  []string
	denied  []Denial
	proxy   *Proxy
}

func newWorld(t *testing.T, policy egress.Policy) *world {
	w := &world{t: t, names: map[string][]string{}, servers: map[string]string{}}
	w.proxy = New(Options{
		Policy: policy,
		Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.looked = append(w.looked, name)
			var out []netip.Addr
			for _, a := range w.names[name] {
				out = append(out, netip.MustParseAddr(a))
			}
			if out == nil {
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			}
			return out, nil
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			w.mu.Lock()
			w.dialled = append(w.dialled, network+" "+address)
			real, ok := w.servers[address]
			w.mu.Unlock()
			if !ok {
				return nil, errors.New("connection refused")
			}
			return (&net.Dialer{}).DialContext(ctx, network, real)
		},
		Denied: func(d Denial) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.denied = append(w.denied, d)
		},
	})
	t.Cleanup(w.proxy.Close)
	return w
}

func policyOf(t *testing.T, allow ...string) egress.Policy {
	t.Helper()
	var p egress.Policy
	for _, text := range allow {
		r, err := egress.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		p.Allow = append(p.Allow, r)
	}
	return p
}

// serve has an HTTP server at name and address, which says its name and the host it was asked for.
func (w *world) serve(name, address string, port int, secure bool) {
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(rw, "%s for %s", name, r.Host)
	}))
	if secure {
		h.StartTLS()
	} else {
		h.Start()
	}
	w.t.Cleanup(h.Close)
	w.names[name] = append(w.names[name], address)
	w.servers[netip.AddrPortFrom(netip.MustParseAddr(address), uint16(port)).String()] = h.Listener.Addr().String() //nolint:gosec // a port
}

var errRefused = errors.New("refused")

// connect is the guest's connect(2) to an address.
func (w *world) connect(dst string) (net.Conn, error) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.Close()
	result := make(chan net.Conn, 1)
	var accepted atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.proxy.TCP(w.t.Context(), Incoming{
			Dst: netip.MustParseAddrPort(dst),
			Accept: func() (net.Conn, error) {
				accepted.Store(true)
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					return nil, err
				}
				guest, err := l.Accept()
				if err == nil {
					result <- guest
				}
				return c, err
			},
			Refuse: func() { result <- nil },
		})
	}()
	c := <-result
	if c == nil {
		<-ended
		return nil, errRefused
	}
	w.t.Cleanup(func() { _ = c.Close(); <-ended })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, nil
}

// named is the address that the guest's resolver gives for a name.
func (w *world) named(name string, port int) string {
	w.t.Helper()
	v4, _ := w.proxy.names.Addrs(name)
	return netip.AddrPortFrom(v4, uint16(port)).String() //nolint:gosec // a port
}

func get(c net.Conn, host, path string) (int, string) {
	_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// hello sends the guest's TLS hello for a name, and reports whether a server of it answered.
func hello(c net.Conn, name string, ech bool) error {
	conf := &tls.Config{ServerName: name, InsecureSkipVerify: true} //nolint:gosec // a test's server
	if ech {
		conf.MinVersion = tls.VersionTLS13
		conf.EncryptedClientHelloConfigList = echConfig()
	}
	return tls.Client(c, conf).Handshake()
}

// echConfig is a list with one ECHConfig (RFC 9849, section 4): its key belongs to nobody.
func echConfig() []byte {
	key := make([]byte, 32)
	key[0] = 9
	content := append([]byte{1, 0, 0x20, 0, 32}, key...)
	content = append(content, 0, 4, 0, 1, 0, 1, 0, 8)
	content = append(content, "outer.ok"...)
	content = append(content, 0, 0)
	config := append([]byte{0xfe, 0x0d, byte(len(content) >> 8), byte(len(content))}, content...)
	return append([]byte{byte(len(config) >> 8), byte(len(config))}, config...)
}

func (w *world) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, d := range w.denied {
		out = append(out, fmt.Sprintf("%s %s %d: %s", d.Proto, d.Name, d.Port, d.Why))
	}
	return strings.Join(out, "; ")
}

func (w *world) reached(address string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.dialled, "tcp "+address)
}

func TestTCPByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policyOf(t, "ok.test", ".many.test:443", "6.6.6.6:80"))
	w.serve("ok.test", "7.7.7.1", 80, false)
	w.serve("ok.test", "7.7.7.1", 443, true)
	w.serve("evil.test", "7.7.7.2", 80, false)
	w.serve("evil.test", "7.7.7.2", 443, true)
	w.serve("a.many.test", "7.7.7.3", 443, true)
	w.serve("by-address", "6.6.6.6", 80, false)
	w.names["rebound.many.test"] = []string{"169.254.169.254", "127.0.0.1", "10.0.0.1", "::1"}

	c, err := w.connect(w.named("ok.test", 80))
	if err != nil {
		t.Fatal(err)
	}
	if code, body := get(c, "ok.test", "/"); code != 200 || body != "ok.test for ok.test" {
		t.Errorf("allowed: %d %q", code, body)
	}
	if code, body := get(c, "OK.test.", "/"); code != 200 || body != "ok.test for OK.test." { // the same connection
		t.Errorf("again: %d %q", code, body)
	}
	if code, body := get(c, "evil.test", "/"); code != 403 || !strings.Contains(body, "does not allow tcp evil.test:80") {
		t.Errorf("another host in the same connection: %d %q", code, body)
	}
	for _, host := range []string{"ok.test:443", "ok.test:80@evil.test", "127.0.0.1", "ok。test", "", "ok.test\x00"} {
		c, err := w.connect(w.named("ok.test", 80))
		if err != nil {
			t.Fatal(err)
		}
		if code, body := get(c, host, "/"); code == 200 {
			t.Errorf("Host %q: %d %q", host, code, body)
		}
	}
	for what, request := range map[string]string{
		"absolute form":     "GET http://evil.test/ HTTP/1.1\r\nHost: ok.test\r\n\r\n",
		"two hosts":         "GET / HTTP/1.1\r\nHost: ok.test\r\nHost: evil.test\r\n\r\n",
		"CONNECT":           "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
		"CONNECT allowed":   "CONNECT ok.test:80 HTTP/1.1\r\nHost: ok.test:80\r\n\r\n",
		"HTTP/2":            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"no host":           "GET / HTTP/1.0\r\n\r\n",
		"a second in one":   "GET / HTTP/1.1\r\nHost: ok.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX",
		"an endless header": "GET / HTTP/1.1\r\nHost: ok.test\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
	} {
		c, err := w.connect(w.named("ok.test", 80))
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(c, request) }()
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if strings.Contains(string(body), "evil.test for") || resp.StatusCode == 200 && what != "a second in one" {
				t.Errorf("%s: %d %q", what, resp.StatusCode, body)
			}
		}
		c.Close()
	}
	c, err = w.connect(w.named("evil.test", 80))
	if err != nil {
		t.Fatal(err)
	}
	if code, body := get(c, "evil.test", "/"); code != 403 || !strings.Contains(body, "--network-allow evil.test:80") {
		t.Errorf("denied: %d %q", code, body)
	}
	for _, dst := range []string{w.named("evil.test", 443), w.named("many.test", 22), w.named("ok.test", 22), "7.7.7.1:443", "[64:ff9b::a9fe:a9fe]:443", w.named("rebound.many.test", 443), "198.18.99.99:443"} {
		if _, err := w.connect(dst); !errors.Is(err, errRefused) {
			t.Errorf("%s: %v", dst, err)
		}
	}
	if c, err = w.connect("6.6.6.6:80"); err != nil {
		t.Fatal(err)
	}
	if code, body := get(c, "whatever.test", "/"); code != 200 || body != "by-address for whatever.test" {
		t.Errorf("by an allowed address: %d %q", code, body)
	}
	for _, a := range []string{"7.7.7.2:80", "7.7.7.2:443", "127.0.0.1:443", "10.0.0.1:443", "[::1]:443", "169.254.169.254:443"} {
		if w.reached(a) {
			t.Errorf("%s was dialled; denied: %s", a, w.said())
		}
	}
	for _, name := range w.looked {
		if strings.Contains(name, "evil") {
			t.Errorf("%s was looked up", name)
		}
	}
}

func TestTCPByTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policyOf(t, "ok.test:443", "other.test:443", "7.7.7.9:443"))
	w.serve("ok.test", "7.7.7.1", 443, true)
	w.serve("evil.test", "7.7.7.9", 443, true)
	for _, tt := range []struct {
		dst, name string
		ech, ok   bool
		why       string
	}{
		{dst: w.named("ok.test", 443), name: "ok.test", ok: true},
		{dst: w.named("ok.test", 443), name: "other.test", ok: true}, // goes to ok.test's server all the same
		{dst: w.named("ok.test", 443), name: "evil.test", why: "evil.test 443"},
		{dst: w.named("ok.test", 443), name: "ok.test", ech: true, why: "hides"},
		{dst: "7.7.7.9:443", name: "evil.test", ok: true}, // its address is allowed
	} {
		c, err := w.connect(tt.dst)
		if err != nil {
			t.Fatalf("%s: %v: %s", tt.dst, err, w.said())
		}
		if err := hello(c, tt.name, tt.ech); (err == nil) != tt.ok || !strings.Contains(w.said(), tt.why) {
			t.Errorf("%s, hello for %s: %v, denied: %s", tt.dst, tt.name, err, w.said())
		}
		c.Close()
	}
	open := policyOf(t, "ok.test:443")
	open.HiddenNames = true
	w.proxy.SetPolicy(open)
	c, err := w.connect(w.named("ok.test", 443))
	if err != nil {
		t.Fatal(err)
	}
	if err := hello(c, "ok.test", true); err == nil || !strings.Contains(w.said(), "outer.ok 443") {
		t.Errorf("ECH with another outer name: %v: %s", err, w.said())
	}
}

// A server that speaks first is carried, and a policy that is set later ends what it denies.
func TestTCPPolicyChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policyOf(t, "ok.test:22", "ok.test:23"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.WriteString(c, "SSH-2.0\r\n"); _, _ = io.Copy(c, c); c.(*net.TCPConn).CloseWrite() }()
		}
	}()
	w.names["ok.test"] = []string{"7.7.7.1"}
	w.servers["7.7.7.1:22"], w.servers["7.7.7.1:23"] = l.Addr().String(), l.Addr().String()
	var conns []*bufio.Reader
	for _, port := range []int{22, 23} {
		c, err := w.connect(w.named("ok.test", port))
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		if line, err := r.ReadString('\n'); line != "SSH-2.0\r\n" {
			t.Fatalf("%q, %v", line, err)
		}
		_, _ = io.WriteString(c, "echo\n")
		if line, err := r.ReadString('\n'); line != "echo\n" {
			t.Fatalf("%q, %v", line, err)
		}
		conns = append(conns, r)
		if port == 23 {
			defer func() {
				_, _ = io.WriteString(c, "still\n")
				if line, err := r.ReadString('\n'); line != "still\n" {
					t.Errorf("allowed as before: %q, %v", line, err)
				}
				_ = c.(*net.TCPConn).CloseWrite()
				if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("after its half-close: %v", err)
				}
			}()
		}
	}
	w.proxy.SetPolicy(policyOf(t, "ok.test:23"))
	if _, err := conns[0].ReadByte(); err == nil {
		t.Error("a connection that is denied now goes on")
	}
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	l := limiter{burst: 3, every: time.Second}
	now := time.Unix(1000, 0)
	var got string
	for _, after := range []float64{0, 0, 0, 0, 0.5, 1, 0, 10, 0, 0, 0} {
		now = now.Add(time.Duration(after * float64(time.Second)))
		got += map[bool]string{true: "y", false: "n"}[l.take(now)]
	}
	if got != "yyynnynyyyn" {
		t.Errorf("%s", got)
	}
}
