//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// certOf makes a self-signed certificate for key, with pad bytes of an extension.
func certOf(t testing.TB, key crypto.Signer, pad int) tls.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	if pad > 0 {
		tmpl.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: make([]byte, pad)}}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// must returns v of a call that cannot fail here.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// hostTLS is the TLS configuration of the right host.
func (g *guest) hostTLS() *tls.Config {
	return must(agentproto.HostTLS(g.id.HostSeed, g.id.GuestKey))
}

// raw makes a TLS connection and sends one request on it, without a hello.
func (g *guest) raw(cfg *tls.Config, method, path, body string) (status int, answer string, err error) {
	conn := g.pipe()
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	tc := tls.Client(conn, cfg)
	if err := tc.Handshake(); err != nil {
		return 0, "", err
	}
	cc, err := (&http2.Transport{}).NewClientConn(tc)
	if err != nil {
		return 0, "", err
	}
	defer cc.Close()
	req := must(http.NewRequest(method, "http://agent"+path, strings.NewReader(body)))
	resp, err := cc.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

func (g *guest) helloText() string {
	return string(must(json.Marshal(agentproto.Hello{Protocol: 1, MachineID: g.id.MachineID, Generation: g.id.Generation})))
}

func TestAgentAcceptsOnlyItsHost(t *testing.T) {
	g := boot(t)
	if status, _, err := g.raw(g.hostTLS(), "POST", agentproto.PathHello, g.helloText()); err != nil || status != 200 {
		t.Fatalf("the right host: %d, %v", status, err)
	}
	stranger := newKeys(t)
	own := ed25519.NewKeyFromSeed(g.id.HostSeed)
	certOnly := func(c tls.Certificate) func(*tls.Config) {
		return func(cfg *tls.Config) { cfg.Certificates = []tls.Certificate{c} }
	}
	two := certOf(t, own, 0)
	two.Certificate = append(two.Certificate, certOf(t, own, 0).Certificate...)
	for _, tt := range []struct {
		name   string
		change func(*tls.Config)
	}{
		{"another key", certOnly(certOf(t, ed25519.NewKeyFromSeed(stranger.seed), 0))},
		{"the guest's own key", certOnly(certOf(t, ed25519.NewKeyFromSeed(g.config.GuestSeed), 0))},
		{"no certificate", func(c *tls.Config) { c.Certificates = nil }},
		{"two certificates", certOnly(two)},
		{"a certificate over the limit", certOnly(certOf(t, own, agentproto.MaxCertificate))},
		{"a certificate of 32 KiB", certOnly(certOf(t, own, 32<<10))},
		{"an RSA key", certOnly(certOf(t, must(rsa.GenerateKey(rand.Reader, 2048)), 0))},
		{"an ECDSA key", certOnly(certOf(t, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), 0))},
		{"no ALPN", func(c *tls.Config) { c.NextProtos = nil; c.VerifyConnection = nil }},
		{"ALPN h2", func(c *tls.Config) { c.NextProtos = []string{"h2"}; c.VerifyConnection = nil }},
		{"ALPN of another version", func(c *tls.Config) { c.NextProtos = []string{"mvm-agent/0", "mvm-agent/2"}; c.VerifyConnection = nil }},
		{"TLS 1.2", func(c *tls.Config) {
			c.MinVersion, c.MaxVersion, c.VerifyConnection = tls.VersionTLS12, tls.VersionTLS12, nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := g.hostTLS()
			tt.change(cfg)
			status, answer, err := g.raw(cfg, "POST", agentproto.PathHello, g.helloText())
			if err == nil {
				t.Errorf("answered with %d %q", status, answer)
			}
		})
	}
	// A right certificate whose private key the peer does not hold.
	t.Run("a stolen certificate", func(t *testing.T) {
		c := certOf(t, own, 0)
		c.PrivateKey = ed25519.NewKeyFromSeed(stranger.seed)
		cfg := g.hostTLS()
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
		if status, answer, err := g.raw(cfg, "POST", agentproto.PathHello, g.helloText()); err == nil {
			t.Errorf("answered with %d %q", status, answer)
		}
	})
	g.connect() // it still serves its host
}

func TestTicketsAreNotGiven(t *testing.T) {
	g := boot(t)
	cache := &countingCache{}
	cfg := g.hostTLS()
	cfg.ClientSessionCache = cache
	for range 2 {
		if _, _, err := g.raw(cfg, "POST", agentproto.PathHello, g.helloText()); err != nil {
			t.Fatal(err)
		}
	}
	if cache.puts != 0 {
		t.Errorf("the agent gave %d tickets", cache.puts)
	}
}

type countingCache struct{ puts int }

func (*countingCache) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (c *countingCache) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.puts++
	}
}

func TestNoPlaintext(t *testing.T) {
	g := boot(t)
	for _, text := range []string{
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n",
		`{"protocol":1}` + "\n",
		strings.Repeat("\x16\x03\x01\x40\x00", 8000),
	} {
		conn := g.pipe()
		conn.SetDeadline(time.Now().Add(patience))
		conn.Write([]byte(text))
		got, _ := io.ReadAll(conn)
		if bytes.Contains(got, []byte("HTTP")) || len(got) > 100 {
			t.Errorf("%.20q is answered with %q", text, got)
		}
	}
}

func TestFirstRequestMustBeTheHello(t *testing.T) {
	g := boot(t)
	for _, path := range []string{agentproto.PathStatus, agentproto.PathLogs, agentproto.PathExec, agentproto.PathShutdown, "/"} {
		method := "POST"
		if path == agentproto.PathStatus || path == agentproto.PathLogs {
			method = "GET"
		}
		status, answer, err := g.raw(g.hostTLS(), method, path, "{}")
		if err != nil || status != http.StatusForbidden || !strings.Contains(answer, agentproto.CodeProtocol) {
			t.Errorf("%s: %d %q, %v", path, status, answer, err)
		}
	}
	select {
	case <-g.off:
		t.Error("it shut down")
	default:
	}
}

func TestHelloNamesWhatDiffers(t *testing.T) {
	g := boot(t)
	for _, tt := range []struct {
		name  string
		hello string
		code  string
		words []string
	}{
		{"another protocol", `{"protocol":2,"machine_id":"0123456789abcdef","generation":7}`, agentproto.CodeVersion, []string{"2", "1"}},
		{"protocol zero", `{"machine_id":"0123456789abcdef","generation":7}`, agentproto.CodeVersion, []string{"0", "1"}},
		{"another machine", `{"protocol":1,"machine_id":"ffffffffffffffff","generation":7}`, agentproto.CodeWrongMachine, []string{"ffffffffffffffff", "0123456789abcdef"}},
		{"another generation", `{"protocol":1,"machine_id":"0123456789abcdef","generation":6}`, agentproto.CodeWrongMachine, []string{"6", "7"}},
		{"no JSON", `hello`, agentproto.CodeInvalid, nil},
		{"too long", `"` + strings.Repeat("x", agentproto.MaxRequest) + `"`, agentproto.CodeInvalid, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, answer, err := g.raw(g.hostTLS(), "POST", agentproto.PathHello, tt.hello)
			var e agentproto.Error
			if err != nil || status/100 != 4 || json.Unmarshal([]byte(answer), &e) != nil || e.Code != tt.code {
				t.Fatalf("%d %q, %v, want %s", status, answer, err, tt.code)
			}
			for _, w := range tt.words {
				if !strings.Contains(e.Message, w) {
					t.Errorf("message %q does not name %s", e.Message, w)
				}
			}
		})
	}
}

func TestConnectSaysWhatIsWrong(t *testing.T) {
	g := boot(t)
	stranger := newKeys(t)
	for _, tt := range []struct {
		name   string
		change func(*agentclient.Identity)
		code   string
	}{
		{"the guest has another key", func(id *agentclient.Identity) { id.GuestKey = stranger.public }, agentproto.CodeAuth},
		{"the guest expects another host", func(id *agentclient.Identity) { id.HostSeed = stranger.seed }, agentproto.CodeAuth},
		{"pins swapped", func(id *agentclient.Identity) {
			id.GuestKey = ed25519.NewKeyFromSeed(id.HostSeed).Public().(ed25519.PublicKey)
		}, agentproto.CodeAuth},
		{"all-zero pin", func(id *agentclient.Identity) { id.GuestKey = make([]byte, 32) }, agentproto.CodeAuth},
		{"short pin", func(id *agentclient.Identity) { id.GuestKey = id.GuestKey[:31] }, agentproto.CodeAuth},
		{"no pin", func(id *agentclient.Identity) { id.GuestKey = nil }, agentproto.CodeAuth},
		{"no seed", func(id *agentclient.Identity) { id.HostSeed = nil }, agentproto.CodeAuth},
		{"another machine", func(id *agentclient.Identity) { id.MachineID = "fedcba9876543210" }, agentproto.CodeWrongMachine},
		{"an older generation", func(id *agentclient.Identity) { id.Generation-- }, agentproto.CodeWrongMachine},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 5 { // the order in which alert and end arrive must not matter
				id := g.id
				tt.change(&id)
				_, err := agentclient.Connect(deadline(t), g.pipe(), id)
				for agentproto.CodeOf(err) == agentproto.CodeLost { // earlier ones still hold all places for handshakes
					_, err = agentclient.Connect(deadline(t), g.pipe(), id)
				}
				if agentproto.CodeOf(err) != tt.code {
					t.Fatalf("%v (%s), want %s", err, agentproto.CodeOf(err), tt.code)
				}
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := agentclient.Connect(ctx, a, g.id); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

// tap copies between a host and the agent and hands every chunk to the two functions, which
// may change it, record it, or return false to cut both directions.
func (g *guest) tap(toGuest, toHost func([]byte) bool) net.Conn {
	guestSide := g.pipe()
	mine, hostSide := must2(socketPair())
	pump := func(dst, src net.Conn, f func([]byte) bool) {
		defer dst.Close()
		defer src.Close()
		buf := make([]byte, 16<<10)
		for {
			n, err := src.Read(buf)
			if n > 0 && (!f(buf[:n]) || write(dst, buf[:n]) != nil) || err != nil {
				return
			}
		}
	}
	go pump(guestSide, hostSide, toGuest)
	go pump(hostSide, guestSide, toHost)
	return mine
}

func write(c net.Conn, p []byte) error { _, err := c.Write(p); return err }

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

func all([]byte) bool { return true }

// A recorded session says nothing to the agent when it is played again.
func TestReplayDoesNothing(t *testing.T) {
	g := boot(t)
	file := filepath.Join(t.TempDir(), "count")
	session := &terminal{} // a buffer with a lock
	c, err := agentclient.Connect(deadline(t), g.tap(func(p []byte) bool { session.Write(p); return true }, all), g.id)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c, sh("echo once >> %s", file), nil)
	c.Close()
	for range 3 {
		conn := g.pipe()
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, session.String())
		io.Copy(io.Discard, conn) // until the agent closes it
		conn.Close()
	}
	if data := must(os.ReadFile(file)); string(data) != "once\n" {
		t.Errorf("the command ran again: %q", data)
	}
}

// Wherever the guest's bytes are cut, the host gets an error or the whole truth.
func TestCutAnywhereIsNeverASuccess(t *testing.T) {
	g := boot(t)
	complete := 0
	for cut := 0; complete < 3; cut++ {
		if cut > 200 {
			t.Fatal("no session is ever complete")
		}
		records := 0 // only the pump to the host touches it
		conn := g.tap(all, func([]byte) bool { records++; return records <= cut })
		out, exit, err := session(t, conn, g.id)
		switch {
		case err == nil && (exit.Code != 3 || out != "first\nsecond\n"):
			t.Fatalf("cut after %d reads: exit %+v with output %q is taken for the end", cut, exit, out)
		case err == nil:
			complete++
		default:
			switch code := agentproto.CodeOf(err); code {
			case agentproto.CodeLost, agentproto.CodeTruncated:
			default:
				t.Fatalf("cut after %d reads: %v (%s)", cut, err, code)
			}
		}
	}
}

// session connects and runs one command.
func session(t *testing.T, conn net.Conn, id agentclient.Identity) (string, agentproto.Exit, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	id.Handshake = time.Second
	c, err := agentclient.Connect(ctx, conn, id)
	if err != nil {
		return "", agentproto.Exit{}, err
	}
	defer c.Close()
	var out bytes.Buffer
	exit, err := c.Exec(ctx, sh("echo first; echo second; exit 3"), agentclient.Streams{Stdout: &out})
	return out.String(), exit, err
}

// A flipped bit ends the session: nobody acts on altered bytes.
func TestFlippedBitsEndTheSession(t *testing.T) {
	if testing.Short() {
		t.Skip("missing: time for some hundred sessions, with -short")
	}
	g := boot(t)
	flip := func(at int) (func([]byte) bool, *atomic.Int64) {
		seen := new(atomic.Int64)
		return func(p []byte) bool {
			n := int(seen.Add(int64(len(p)))) - len(p)
			if i := at - n; i >= 0 && i < len(p) {
				p[i] ^= 0x10
			}
			return true
		}, seen
	}
	for _, direction := range []string{"to the guest", "to the host"} {
		t.Run(direction, func(t *testing.T) {
			// Lengths that promise more than comes make the other side wait, so not every
			// offset of some thousand is tried.
			for at := 0; ; at += 7 {
				f, seen := flip(at)
				toGuest, toHost := f, all
				if direction == "to the host" {
					toGuest, toHost = toHost, toGuest
				}
				out, exit, err := session(t, g.tap(toGuest, toHost), g.id)
				if err == nil && (exit.Code != 3 || out != "first\nsecond\n") {
					t.Fatalf("bit at %d: exit %+v, output %q", at, exit, out)
				}
				if n := int(seen.Load()); err == nil && at >= n {
					t.Logf("%d bytes, %d sessions", n, at/7+1)
					return // past the end of the session
				}
			}
		})
	}
}

// Half-open connections are bounded and end, and the host gets through once they have.
func TestHalfOpenConnectionsEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("missing: time to wait for the handshake deadline of 5 s, with -short")
	}
	g := boot(t)
	hello := clientHello(t, g.hostTLS())
	began := time.Now()
	var held []net.Conn
	for i := range agentproto.MaxPendingConns {
		c := g.pipe()
		c.Write(hello[:i*len(hello)/agentproto.MaxPendingConns])
		held = append(held, c)
	}
	// One byte at a time keeps nobody longer.
	go func() {
		for i := range hello {
			if write(held[0], hello[i:i+1]) != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	over := 0
	for range 1000 {
		c := must(net.Dial("unix", g.path))
		c.SetReadDeadline(time.Now().Add(patience))
		if n, err := c.Read(make([]byte, 1)); n == 0 && errors.Is(err, io.EOF) || isReset(err) {
			over++
		}
		c.Close()
	}
	if over != 1000 {
		t.Errorf("%d of 1000 connections over the limit were closed at once", over)
	}
	for i, c := range held {
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("half-open connection %d is still open after %v", i, time.Since(began))
		}
	}
	if d := time.Since(began); d < agentproto.HandshakeTimeout-time.Second {
		t.Errorf("they were closed after only %v", d)
	}
	g.connect()
}

func isReset(err error) bool { return err != nil && strings.Contains(err.Error(), "reset") }

// clientHello is the first flight of a TLS client.
func clientHello(t *testing.T, cfg *tls.Config) []byte {
	a, b := must2(socketPair())
	defer b.Close()
	go func() {
		tls.Client(a, cfg).Handshake()
		a.Close()
	}()
	buf := make([]byte, 4096)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// A connection that authenticates but never says hello ends too.
func TestSilentConnectionEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("missing: time to wait for the handshake deadline of 5 s, with -short")
	}
	g := boot(t)
	conn := g.pipe()
	tc := tls.Client(conn, g.hostTLS())
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("still open")
	}
}
