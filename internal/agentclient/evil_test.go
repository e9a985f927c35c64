package agentclient_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

const patience = 20 * time.Second

// evil is a guest that holds the right key and says whatever a test wants.
type evil struct {
	id    agentclient.Identity
	hello agentproto.Hello
	tls   *tls.Config
}

func newEvil(t *testing.T) *evil {
	t.Helper()
	hostPub, host, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	guestPub, guest, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := agentproto.GuestTLS(guest.Seed(), hostPub)
	if err != nil {
		t.Fatal(err)
	}
	return &evil{
		id: agentclient.Identity{
			HostSeed: host.Seed(), GuestKey: guestPub, MachineID: "0123456789abcdef", Generation: 3, Handshake: patience,
		},
		hello: agentproto.Hello{Protocol: agentproto.Version, MachineID: "0123456789abcdef", Generation: 3},
		tls:   cfg,
	}
}

// connect connects a host to the guest, whose requests after the hello h answers.
func (e *evil) connect(t *testing.T, h http.HandlerFunc) (*agentclient.Client, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		tc := tls.Server(conn, e.tls)
		if tc.Handshake() != nil {
			return
		}
		(&http2.Server{}).ServeConn(tc, &http2.ServeConnOpts{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == agentproto.PathHello && e.hello.Protocol >= 0 {
				json.NewEncoder(w).Encode(e.hello)
				return
			}
			h(w, r)
		})})
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		ln.Close()
		<-served
	})
	c, err := agentclient.Connect(deadline(t), conn, e.id)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (e *evil) mustConnect(t *testing.T, h http.HandlerFunc) *agentclient.Client {
	t.Helper()
	c, err := e.connect(t, h)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// rec is a record as bytes; body may be text or something for JSON.
func rec(t agentproto.RecordType, body any) []byte {
	var data []byte
	switch v := body.(type) {
	case nil:
	case string:
		data = []byte(v)
	default:
		data, _ = json.Marshal(v)
	}
	return append(binary.BigEndian.AppendUint32([]byte{byte(t)}, uint32(len(data))), data...)
}

var (
	started = rec(agentproto.RecStarted, agentproto.Started{Pid: 1})
	exit0   = rec(agentproto.RecExit, agentproto.Exit{})
)

func TestHelloOfTheGuestIsChecked(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*agentproto.Hello)
		code   string
		words  string
	}{
		{"protocol", func(h *agentproto.Hello) { h.Protocol = 9 }, agentproto.CodeVersion, "protocol 9, this mvmctl speaks 1"},
		{"machine", func(h *agentproto.Hello) { h.MachineID = "feedfeedfeedfeed" }, agentproto.CodeWrongMachine, "feedfeedfeedfeed"},
		{"generation", func(h *agentproto.Hello) { h.Generation = 2 }, agentproto.CodeWrongMachine, "generation 2, not 3"},
		{"escape sequences", func(h *agentproto.Hello) { h.MachineID = "\x1b]52;c;x\x07" }, agentproto.CodeWrongMachine, `\x1b`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEvil(t)
			tt.change(&e.hello)
			_, err := e.connect(t, nil)
			if agentproto.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.words) || strings.ContainsAny(err.Error(), "\x1b\x07") {
				t.Errorf("%v (%s), want %s with %q", err, agentproto.CodeOf(err), tt.code, tt.words)
			}
		})
	}
}

func TestHelloThatIsNone(t *testing.T) {
	for name, tt := range map[string]struct {
		h    http.HandlerFunc
		code string
	}{
		"endless":   {func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, endless{}) }, agentproto.CodeProtocol},
		"no JSON":   {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hi") }, agentproto.CodeProtocol},
		"an error":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", 500) }, agentproto.CodeProtocol},
		"never":     {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, agentproto.CodeTimeout},
		"cut short": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, agentproto.CodeLost},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEvil(t)
			e.hello.Protocol = -1             // the handler answers the hello too
			e.id.Handshake = 30 * time.Second // no test waits for it …
			if name == "never" {
				e.id.Handshake = 500 * time.Millisecond // … but this one
			}
			if _, err := e.connect(t, tt.h); agentproto.CodeOf(err) != tt.code {
				t.Errorf("%v (%s), want %s", err, agentproto.CodeOf(err), tt.code)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// Something that is no agent answers on the port.
func TestConnectToStrangers(t *testing.T) {
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		code  string
	}{
		"closes":       {func(c net.Conn) { c.Close() }, agentproto.CodeLost},
		"is silent":    {func(c net.Conn) { io.Copy(io.Discard, c) }, agentproto.CodeTimeout},
		"speaks HTTP":  {func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); c.Close() }, agentproto.CodeProtocol},
		"echoes":       {func(c net.Conn) { io.Copy(c, c) }, agentproto.CodeProtocol},
		"floods":       {func(c net.Conn) { io.Copy(c, endless{}) }, agentproto.CodeProtocol},
		"floods empty": {func(c net.Conn) { io.Copy(c, emptyRecords{}) }, agentproto.CodeProtocol},
		"is an old TLS server": {func(c net.Conn) {
			e := newEvil(t)
			cfg := e.tls.Clone()
			cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			tls.Server(c, cfg).Handshake()
			c.Close()
		}, agentproto.CodeVersion},
		"has no ALPN": {func(c net.Conn) {
			e := newEvil(t)
			cfg := e.tls.Clone()
			cfg.NextProtos = []string{"h2"}
			tls.Server(c, cfg).Handshake()
			c.Close()
		}, agentproto.CodeVersion},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEvil(t)
			e.id.Handshake = 3 * time.Second
			mine, theirs := tcpPair(t)
			served := make(chan struct{})
			go func() {
				defer close(served)
				tt.serve(theirs)
			}()
			defer func() {
				theirs.Close()
				<-served
			}()
			_, err := agentclient.Connect(deadline(t), mine, e.id)
			if agentproto.CodeOf(err) != tt.code {
				t.Errorf("%v (%s), want %s", err, agentproto.CodeOf(err), tt.code)
			}
		})
	}
}

// tcpPair returns two ends of a connection. net.Pipe has no buffer: with it a stranger who
// does not read would stop the host before it has read anything.
func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// emptyRecords are TLS handshake records without content: bytes that never become a message.
type emptyRecords struct{}

func (emptyRecords) Read(p []byte) (int, error) { return copy(p, "\x14\x03\x03\x00\x01\x01"), nil }

func TestBrokenStreamsAreNoSuccess(t *testing.T) {
	out := rec(agentproto.RecStdout, "out")
	for _, tt := range []struct {
		name string
		sent [][]byte
		cut  bool // end with a reset
		code string
	}{
		{"nothing", nil, false, agentproto.CodeTruncated},
		{"started only", [][]byte{started}, false, agentproto.CodeTruncated},
		{"no exit", [][]byte{started, out}, false, agentproto.CodeTruncated},
		{"half a record", [][]byte{started, out[:6]}, false, agentproto.CodeTruncated},
		{"half a head", [][]byte{started, out[:2]}, false, agentproto.CodeTruncated},
		{"half an exit", [][]byte{started, exit0[:len(exit0)-1]}, false, agentproto.CodeTruncated},
		{"reset", [][]byte{started, out}, true, agentproto.CodeLost},
		{"reset at once", nil, true, agentproto.CodeLost},
		{"output before started", [][]byte{out, started, exit0}, false, agentproto.CodeProtocol},
		{"started twice", [][]byte{started, started, exit0}, false, agentproto.CodeProtocol},
		{"exit twice", [][]byte{started, exit0, exit0}, false, agentproto.CodeProtocol},
		{"output after exit", [][]byte{started, exit0, out}, false, agentproto.CodeProtocol},
		{"unknown type", [][]byte{started, {99, 0, 0, 0, 0}, exit0}, false, agentproto.CodeProtocol},
		{"type zero", [][]byte{started, {0, 0, 0, 0, 0}, exit0}, false, agentproto.CodeProtocol},
		{"a host's record", [][]byte{started, rec(agentproto.RecStdin, "x"), exit0}, false, agentproto.CodeProtocol},
		{"a giant record", [][]byte{started, {byte(agentproto.RecStdout), 0xff, 0xff, 0xff, 0xff}}, false, agentproto.CodeProtocol},
		{"malformed started", [][]byte{rec(agentproto.RecStarted, "{"), exit0}, false, agentproto.CodeProtocol},
		{"malformed exit", [][]byte{started, rec(agentproto.RecExit, "null,")}, false, agentproto.CodeProtocol},
		{"exit code 256", [][]byte{started, rec(agentproto.RecExit, agentproto.Exit{Code: 256})}, false, agentproto.CodeProtocol},
		{"exit code -1", [][]byte{started, rec(agentproto.RecExit, agentproto.Exit{Code: -1})}, false, agentproto.CodeProtocol},
		{"credit for nothing", [][]byte{started, rec(agentproto.RecCredit, agentproto.Credit{Bytes: 1}), exit0}, false, agentproto.CodeProtocol},
		{"negative credit", [][]byte{started, rec(agentproto.RecCredit, agentproto.Credit{Bytes: -1 << 30}), exit0}, false, agentproto.CodeProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newEvil(t).mustConnect(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusOK)
				for _, p := range tt.sent {
					w.Write(p)
					w.(http.Flusher).Flush()
				}
				if tt.cut {
					panic(http.ErrAbortHandler)
				}
			})
			exit, err := c.Exec(deadline(t), agentproto.ExecStart{}, agentclient.Streams{})
			if agentproto.CodeOf(err) != tt.code {
				t.Errorf("exit %+v, error %v (%s), want %s", exit, err, agentproto.CodeOf(err), tt.code)
			}
		})
	}
	t.Run("the whole is one", func(t *testing.T) {
		c := newEvil(t).mustConnect(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(bytes.Join([][]byte{started, out, rec(agentproto.RecExit, agentproto.Exit{Code: 9})}, nil))
		})
		var got bytes.Buffer
		exit, err := c.Exec(deadline(t), agentproto.ExecStart{}, agentclient.Streams{Stdout: &got})
		if err != nil || exit.Code != 9 || got.String() != "out" {
			t.Errorf("%+v, %v, %q", exit, err, got.String())
		}
	})
}

func TestWhatAGuestSaysIsCleaned(t *testing.T) {
	nasty := "\x1b]0;owned\x07\r\nerror: forged line\u202e" + strings.Repeat("x", 100_000)
	check := func(t *testing.T, err error) {
		t.Helper()
		var e *agentproto.Error
		if !errors.As(err, &e) {
			t.Fatalf("%v", err)
		}
		for _, s := range []string{e.Code, e.Message, e.Remedy} {
			if strings.ContainsAny(s, "\x1b\x07\r\n\u202e") || len(s) > 10_000 {
				t.Errorf("%d bytes: %.100q", len(s), s)
			}
		}
	}
	bad := agentproto.Error{Code: "x\x1b", Message: nasty, Remedy: nasty}
	t.Run("refusal", func(t *testing.T) {
		small := bad
		small.Message, small.Remedy = nasty[:1000], nasty[:1000]
		c := newEvil(t).mustConnect(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			json.NewEncoder(w).Encode(small)
		})
		_, err := c.Status(deadline(t))
		check(t, err)
	})
	t.Run("exit", func(t *testing.T) {
		c := newEvil(t).mustConnect(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(append(started, rec(agentproto.RecExit, agentproto.Exit{Signal: nasty[:50], Error: &bad})...))
		})
		exit, err := c.Exec(deadline(t), agentproto.ExecStart{}, agentclient.Streams{})
		if err != nil || strings.ContainsAny(exit.Signal, "\x1b\n") {
			t.Errorf("%q, %v", exit.Signal, err)
		}
		check(t, exit.Error)
	})
}

func TestBrokenAnswersAreNoSuccess(t *testing.T) {
	ctx := deadline(t)
	status := func(c *agentclient.Client) error { _, err := c.Status(ctx); return err }
	copyOut := func(c *agentclient.Client) error { return c.CopyOut(ctx, "/", io.Discard) }
	copyIn := func(c *agentclient.Client) error { _, err := c.CopyIn(ctx, "/", strings.NewReader("x")); return err }
	logs := func(c *agentclient.Client) error {
		return c.Logs(ctx, 0, func(agentproto.LogEntry) error { return nil })
	}
	events := func(c *agentclient.Client) error {
		return c.Events(ctx, 0, func(agentproto.Event) error { return nil })
	}
	diff := func(c *agentclient.Client) error { return c.Diff(ctx, func(agentproto.Change) error { return nil }) }
	forward := func(c *agentclient.Client) error {
		f, err := c.Forward(ctx, "", 80)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.ReadAll(f)
		return err
	}
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
	}
	trailer := func(body string, value ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", agentproto.TrailerError)
			io.WriteString(w, body)
			if value != nil {
				w.Header()[agentproto.TrailerError] = value
			}
		}
	}
	for _, tt := range []struct {
		name string
		call func(*agentclient.Client) error
		h    http.HandlerFunc
		code string // "-": success
	}{
		{"status: no JSON", status, text("no"), agentproto.CodeProtocol},
		{"status: endless", status, func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, endless{}) }, agentproto.CodeProtocol},
		{"status: page of another server", status, func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) }, agentproto.CodeProtocol},
		{"copy out: no trailer", copyOut, text("tar"), agentproto.CodeTruncated},
		{"copy out: trailer promised and not sent", copyOut, trailer("tar"), agentproto.CodeTruncated},
		{"copy out: malformed trailer", copyOut, trailer("tar", "{"), agentproto.CodeProtocol},
		{"copy out: error in the trailer", copyOut, trailer("tar", `{"code":"copy.failed","message":"x"}`), agentproto.CodeCopy},
		{"copy out: two trailers", copyOut, trailer("tar", "", ""), agentproto.CodeTruncated},
		{"copy out: complete", copyOut, trailer("tar", ""), "-"},
		{"copy in: no JSON", copyIn, text("no"), agentproto.CodeProtocol},
		{"copy in: nothing", copyIn, text(""), agentproto.CodeProtocol},
		{"logs: end without the last entry", logs, text(`{"seq":1,"text":"a"}` + "\n"), agentproto.CodeTruncated},
		{"logs: last entry without its newline", logs, text(`{"seq":1,"end":true}`), agentproto.CodeTruncated},
		{"logs: no JSON", logs, text("no\n"), agentproto.CodeProtocol},
		{"logs: a giant line", logs, func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, endless{}) }, agentproto.CodeProtocol},
		{"logs: complete", logs, text(`{"seq":1,"end":true}` + "\n"), "-"},
		{"events: an end", events, text(`{"seq":1}` + "\n"), agentproto.CodeTruncated},
		{"diff: no end mark", diff, text(`{"kind":"A","path":"/a"}` + "\n"), agentproto.CodeTruncated},
		{"diff: error in the trailer", diff, trailer(`{"kind":"A","path":"/a"}`+"\n", `{"code":"copy.failed","message":"x"}`), agentproto.CodeCopy},
		{"diff: complete", diff, text(`{"end":true}` + "\n"), "-"},
		{"forward: no end mark", forward, text(string(rec(agentproto.RecStdout, "x"))), agentproto.CodeTruncated},
		{"forward: another record", forward, text(string(rec(agentproto.RecStderr, "x"))), agentproto.CodeProtocol},
		{"forward: complete", forward, text(string(rec(agentproto.RecStdout, "x")) + string(rec(agentproto.RecStdout, nil))), "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call(newEvil(t).mustConnect(t, tt.h))
			if code := agentproto.CodeOf(err); tt.code == "-" && err != nil || tt.code != "-" && code != tt.code {
				t.Errorf("%v (%s), want %s", err, code, tt.code)
			}
		})
	}
}

// A guest that agrees to shut down may be off before its answer has an end.
func TestShutdownNeedsNoEnd(t *testing.T) {
	c := newEvil(t).mustConnect(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != agentproto.PathShutdown {
			return
		}
		w.WriteHeader(http.StatusAccepted)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	if err := c.Shutdown(deadline(t), agentproto.ShutdownRequest{}); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestDeadlineAndCancelAreToldApart(t *testing.T) {
	c := newEvil(t).mustConnect(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); agentproto.CodeOf(err) != agentproto.CodeTimeout || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := c.Exec(ctx, agentproto.ExecStart{}, agentclient.Streams{Stdin: endless{}}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancel: %v", err)
	}
}

func TestStartThatIsTooLarge(t *testing.T) {
	c := newEvil(t).mustConnect(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	start := agentproto.ExecStart{Process: agentproto.Process{Args: []string{strings.Repeat("x", agentproto.MaxRecord)}}}
	if _, err := c.Exec(deadline(t), start, agentclient.Streams{}); agentproto.CodeOf(err) != agentproto.CodeProtocol {
		t.Errorf("%v", err)
	}
}

func TestCallersErrorsComeBack(t *testing.T) {
	c := newEvil(t).mustConnect(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write(append(started, rec(agentproto.RecStdout, "x")...))
		w.(http.Flusher).Flush()
		io.Copy(io.Discard, r.Body)
	})
	broken := errors.New("broken")
	_, err := c.Exec(deadline(t), agentproto.ExecStart{}, agentclient.Streams{Stdout: failing{broken}})
	if !errors.Is(err, broken) {
		t.Errorf("a writer's error: %v", err)
	}
	_, err = c.Exec(deadline(t), agentproto.ExecStart{}, agentclient.Streams{Stdin: failing{broken}})
	if !errors.Is(err, broken) {
		t.Errorf("a reader's error: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Status(deadline(t)); agentproto.CodeOf(err) != agentproto.CodeLost {
		t.Errorf("after Close: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }
