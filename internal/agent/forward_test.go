//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// listen serves one TCP connection after another with f and returns the port.
func listen(t *testing.T, addr string, f func(c *net.TCPConn)) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("missing: a loopback to listen on, %s: %v", addr, err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f(c.(*net.TCPConn))
			c.Close()
		}
	})
	t.Cleanup(func() {
		ln.Close()
		serving.Wait()
	})
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

func TestForwardHalfCloses(t *testing.T) {
	c := boot(t).connect()
	t.Run("the host first", func(t *testing.T) {
		// The program answers only after it has seen the end of the request.
		port := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
			data, _ := io.ReadAll(c)
			c.Write(bytes.ToUpper(data))
		})
		f, err := c.Forward(deadline(t), "", port)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		io.WriteString(f, "question")
		f.CloseWrite()
		if got, err := io.ReadAll(f); err != nil || string(got) != "QUESTION" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("the guest first", func(t *testing.T) {
		got := make(chan string, 1)
		port := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
			io.WriteString(c, "greeting")
			c.CloseWrite()
			data, _ := io.ReadAll(c)
			got <- string(data)
		})
		f, err := c.Forward(deadline(t), "", port)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if data, err := io.ReadAll(f); err != nil || string(data) != "greeting" {
			t.Errorf("%q, %v", data, err)
		}
		io.WriteString(f, "still talking")
		f.CloseWrite()
		if s := <-got; s != "still talking" {
			t.Errorf("%q", s)
		}
	})
	t.Run("a reset is no end", func(t *testing.T) {
		port := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
			io.WriteString(c, "half an ans")
			io.ReadFull(c, make([]byte, 1))
			c.SetLinger(0)
		})
		f, err := c.Forward(deadline(t), "", port)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		io.ReadFull(f, make([]byte, 11))
		f.Write([]byte("x"))
		if _, err := io.ReadAll(f); err == nil {
			t.Error("a reset looks like an orderly end")
		}
	})
	t.Run("closing wakes a reader", func(t *testing.T) {
		gone := make(chan struct{})
		port := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
			io.Copy(io.Discard, c)
			close(gone)
		})
		f, err := c.Forward(deadline(t), "", port)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := f.Read(make([]byte, 1))
			done <- err
		}()
		f.Close()
		if err := <-done; err == nil || errors.Is(err, io.EOF) {
			t.Errorf("read: %v", err)
		}
		<-gone
	})
}

func TestForwardReachesLoopbackOnly(t *testing.T) {
	c := boot(t).connect()
	v6 := listen(t, "[::1]:0", func(c *net.TCPConn) { io.WriteString(c, "six") })
	f, err := c.Forward(deadline(t), "", v6)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(f); err != nil || string(got) != "six" {
		t.Errorf("%q, %v", got, err)
	}
	f.Close()
	for _, tt := range []struct {
		host string
		port uint16
		code string
	}{
		{"", 1, agentproto.CodeConnect},
		{"", 0, agentproto.CodeInvalid},
		{"127.0.0.1", v6, agentproto.CodeConnect},
		{"192.0.2.1", 80, agentproto.CodeInvalid},
		{"localhost", 80, agentproto.CodeInvalid},
		{"169.254.169.254", 80, agentproto.CodeInvalid},
	} {
		if _, err := c.Forward(deadline(t), tt.host, tt.port); agentproto.CodeOf(err) != tt.code {
			t.Errorf("%s:%d: %v, want %s", tt.host, tt.port, err, tt.code)
		}
	}
}

func TestForwardBulk(t *testing.T) {
	const size = 16 << 20
	c := boot(t).connect()
	port := listen(t, "127.0.0.1:0", func(c *net.TCPConn) {
		io.Copy(c, c)
		c.CloseWrite()
	})
	f, err := c.Forward(deadline(t), "", port)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	go func() {
		io.Copy(f, patterned(size))
		f.CloseWrite()
	}()
	h := sha256.New()
	if n, err := io.Copy(h, f); err != nil || n != size || sum(h) != digest(t, patterned(size)) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// Other processes reach the agent through a proxy in the supervisor: all calls work there
// too, and ends and cuts keep their meaning.
func TestClientThroughAProxy(t *testing.T) {
	g := boot(t)
	warm := g.connect()
	proxy := proxyTo(warm.RoundTripper())
	srv := httptest.NewUnstartedServer(proxy)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	defer srv.Close()
	rt := &http2.Transport{AllowHTTP: true, DialTLSContext: dialPlain(srv.Listener.Addr().String())}
	defer rt.CloseIdleConnections()
	c := agentclient.NewClient(rt)

	if s, err := c.Status(deadline(t)); err != nil || s.Phase != "ready" {
		t.Errorf("Status: %+v, %v", s, err)
	}
	out, _, exit := run(t, c, sh("cat; exit 3"), strings.NewReader("through"))
	if out != "through" || exit.Code != 3 {
		t.Errorf("exec: %q, %+v", out, exit)
	}
	h := sha256.New()
	if exit, err := c.Exec(deadline(t), sh("cat"), agentclient.Streams{Stdin: patterned(8 << 20), Stdout: h}); err != nil || exit.Code != 0 || sum(h) != digest(t, patterned(8<<20)) {
		t.Errorf("bulk: %+v, %v", exit, err)
	}
	dir := t.TempDir()
	if res, err := c.CopyIn(deadline(t), dir, bytes.NewReader(pack(t, file("f", "body")))); err != nil || res.Files != 1 {
		t.Errorf("CopyIn: %+v, %v", res, err)
	}
	var tarball bytes.Buffer
	if err := c.CopyOut(deadline(t), dir+"/f", &tarball); err != nil || unpack(t, tarball.Bytes())["f"].body != "body" {
		t.Errorf("CopyOut: %v", err)
	}
	_, err := c.Exec(deadline(t), agentproto.ExecStart{}, agentclient.Streams{})
	if err != nil {
		t.Errorf("a refused start: %v", err)
	}
	port := listen(t, "127.0.0.1:0", func(c *net.TCPConn) { io.Copy(c, c) })
	f, err := c.Forward(deadline(t), "", port)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(f, "echo")
	f.CloseWrite()
	if got, err := io.ReadAll(f); err != nil || string(got) != "echo" {
		t.Errorf("forward: %q, %v", got, err)
	}
	f.Close()

	// A caller that goes away is noticed in the guest.
	ctx, cancel := context.WithCancel(deadline(t))
	_, err = c.Exec(ctx, sh("echo; exec sleep 60"), agentclient.Streams{Stdout: writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	})})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	eventually(t, "the agent is idle", func() bool {
		s, err := c.Status(deadline(t))
		return err == nil && s.Streams == 0
	})
	// A guest that is lost is no success.
	started := make(chan struct{})
	done := make(chan ended, 1)
	go func() {
		exit, err := c.Exec(deadline(t), sh("exec sleep 60"), agentclient.Streams{Started: func(int) { close(started) }})
		done <- ended{exit, err}
	}()
	<-started
	warm.Close()
	if e := wait(t, done); agentproto.CodeOf(e.err) != agentproto.CodeLost && agentproto.CodeOf(e.err) != agentproto.CodeTruncated {
		t.Errorf("lost guest: %+v, %v", e.exit, e.err)
	}
}

// proxyTo passes requests on as the supervisor does: bytes as they come, and the stream ends
// with its answer. (httputil.ReverseProxy waits for the end of the request, which the input of
// a terminal never reaches.)
func proxyTo(rt http.RoundTripper) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host, out.RequestURI = "http", "agent", ""
		resp, err := rt.RoundTrip(out)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		rc := http.NewResponseController(w)
		rc.Flush()
		buf := make([]byte, 32<<10)
		for {
			n, err := resp.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err == io.EOF {
				break
			}
			if err != nil {
				panic(http.ErrAbortHandler)
			}
		}
		for k, v := range resp.Trailer {
			w.Header()[http.TrailerPrefix+k] = v
		}
	}
}

func dialPlain(addr string) func(context.Context, string, string, *tls.Config) (net.Conn, error) {
	return func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
}
