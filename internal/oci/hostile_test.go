package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// layerSite is a site whose only layer is answered by do; everything else is honest.
func layerSite(t *testing.T, size int, do func(w http.ResponseWriter, r *http.Request, data []byte)) (*site, *content) {
	t.Helper()
	content := makeImage(t, size)
	s := newSite(t, content)
	l := content.layers[0]
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, l.Digest) {
			return false
		}
		do(w, r, content.blobs[l.Digest])
		return true
	}
	return s, content
}

// cutAfter answers as it should and breaks off after n bytes.
func cutAfter(w http.ResponseWriter, r *http.Request, data []byte, n int) {
	from := 0
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
		w.WriteHeader(http.StatusPartialContent)
	} else {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	}
	_, _ = w.Write(data[from:min(from+n, len(data))])
	if from+n < len(data) {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// TestTruncated: a body that is cut is resumed where it broke off, five times (A060).
func TestTruncated(t *testing.T) {
	t.Parallel()
	const step = 64 << 10
	for _, at := range []int{step, 2 * step, 3 * step, 1} {
		t.Run(strconv.Itoa(at), func(t *testing.T) {
			t.Parallel()
			s, content := layerSite(t, 5*step, func(w http.ResponseWriter, r *http.Request, data []byte) {
				if r.Header.Get("Range") == "" {
					cutAfter(w, r, data, at)
				}
				cutAfter(w, r, data, len(data))
			})
			b := newBlobs(t)
			img, err := pull(t, newClient(t), s.source(t, ":1"), b)
			must(t, err)
			wantLayers(t, b, img, content)
			if s.bytes() > img.Size+int64(len(content.manifest)+len(content.config)) {
				t.Errorf("%d bytes were sent for %d", s.bytes(), img.Size)
			}
		})
	}
	t.Run("forever", func(t *testing.T) {
		t.Parallel()
		s, content := layerSite(t, 20*step, func(w http.ResponseWriter, r *http.Request, data []byte) { cutAfter(w, r, data, step) })
		b := newBlobs(t)
		_, err := pull(t, newClient(t), s.source(t, ":1"), b)
		wantCode(t, err, "peer.truncated")
		wantNothing(t, b, content)
		l := content.layers[0]
		if n := b.begun(l.Digest, l.Size); n != 6*step {
			t.Errorf("%d bytes were kept, want six times %d", n, step)
		}
		// The next one goes on from there, and so in the end it is here.
		for range 2 {
			_, err = pull(t, newClient(t), s.source(t, ":1"), b)
			wantCode(t, err, "peer.truncated")
		}
		img, err := pull(t, newClient(t), s.source(t, ":1"), b)
		must(t, err)
		wantLayers(t, b, img, content)
	})
	t.Run("at once", func(t *testing.T) {
		t.Parallel()
		s, content := layerSite(t, step, func(http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) })
		_, err := pull(t, newClient(t), s.source(t, ":1"), newBlobs(t))
		wantCode(t, err, "peer.truncated")
		// net/http itself asks again when a connection that it has used before is closed at once.
		if n := len(s.asked(content.layers[0].Digest)); n < 6 || n > 7 {
			t.Errorf("asked %d times, want once and five times more", n)
		}
	})
	t.Run("a short length", func(t *testing.T) {
		t.Parallel()
		s, _ := layerSite(t, step, func(w http.ResponseWriter, _ *http.Request, data []byte) { _, _ = w.Write(data[:1000]) })
		_, err := pull(t, newClient(t), s.source(t, ":1"), newBlobs(t))
		wantCode(t, err, "peer.truncated")
	})
}

// TestTooLong: what is longer than promised is cut one byte later (A061).
func TestTooLong(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(w http.ResponseWriter, r *http.Request, data []byte){
		"length": func(w http.ResponseWriter, _ *http.Request, data []byte) { _, _ = w.Write(append(data, 0)) },
		"no length": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(append(data, 0))
		},
		"endless": func(w http.ResponseWriter, r *http.Request, _ []byte) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, content := layerSite(t, 100_000, do)
			b := newBlobs(t)
			_, err := pull(t, newClient(t), s.source(t, ":1"), b)
			wantCode(t, err, "integrity.size")
			wantNothing(t, b, content)
			if n := len(s.asked(content.layers[0].Digest)); n != 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestWrongContent(t *testing.T) {
	t.Parallel()
	s, content := layerSite(t, 1000, func(w http.ResponseWriter, _ *http.Request, data []byte) { _, _ = w.Write(make([]byte, len(data))) })
	b := newBlobs(t)
	_, err := pull(t, newClient(t), s.source(t, ":1"), b)
	wantCode(t, err, "integrity.digest")
	wantNothing(t, b, content)
	if n := b.begun(content.layers[0].Digest, 1<<20); n != 0 {
		t.Errorf("%d wrong bytes were kept", n)
	}
}

// TestStandstill: silence and dripping end (A063).
func TestStandstill(t *testing.T) {
	t.Parallel()
	until := func(r *http.Request) { <-r.Context().Done() }
	t.Run("mid-body", func(t *testing.T) {
		t.Parallel()
		s, content := layerSite(t, 100_000, func(w http.ResponseWriter, r *http.Request, data []byte) {
			if r.Header.Get("Range") == "" {
				_, _ = w.Write(data[:5000])
				_ = http.NewResponseController(w).Flush()
			}
			until(r)
		})
		c, b := newClient(t), newBlobs(t)
		c.tune.idle = time.Second
		_, err := pull(t, c, s.source(t, ":1"), b)
		wantCode(t, err, "peer.timeout")
		l := content.layers[0]
		if n := b.begun(l.Digest, l.Size); n != 5000 {
			t.Errorf("%d bytes were kept", n)
		}
		// Asked again because it had moved, and then no more.
		if n := len(s.asked(l.Digest)); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("drip", func(t *testing.T) {
		t.Parallel()
		s, _ := layerSite(t, 100_000, func(w http.ResponseWriter, r *http.Request, data []byte) {
			if r.Header.Get("Range") != "" {
				until(r)
			}
			for i := range data {
				_, _ = w.Write(data[i : i+1])
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
		c := newClient(t)
		c.tune.idle, c.tune.window, c.tune.floor = 2*time.Second, 300*time.Millisecond, 10_000
		_, err := pull(t, c, s.source(t, ":1"), newBlobs(t))
		wantCode(t, err, "peer.timeout")
	})
	t.Run("after accept, headers, handshake", func(t *testing.T) {
		t.Parallel()
		for _, greeting := range []string{"", "HTTP/1.1 200 OK\r\nX-Drip: "} {
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			must(t, err)
			t.Cleanup(func() { _ = l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					t.Cleanup(func() { _ = conn.Close() })
					_, _ = io.WriteString(conn, greeting)
				}
			}()
			c := newClient(t)
			c.tune.idle = time.Second
			_, err = c.Resolve(t.Context(), parse(t, l.Addr().String()+"/app"), amd64)
			wantCode(t, err, "peer.timeout")
			// The same, but we begin with a TLS handshake.
			at, _ := url.Parse("https://" + l.Addr().String())
			_, err = c.send(t.Context(), at, at, http.MethodGet, http.Header{}, nil)
			if greeting == "" {
				wantCode(t, err, "peer.timeout")
			} else {
				wantCode(t, err, "peer.tls")
			}
		}
	})
	t.Run("reset", func(t *testing.T) {
		t.Parallel()
		s, _ := layerSite(t, 100_000, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
		})
		_, err := pull(t, newClient(t), s.source(t, ":1"), newBlobs(t))
		wantCode(t, err, "peer.unavailable")
	})
}

// TestRanges: what is not the range that was asked for is never appended (A070).
func TestRanges(t *testing.T) {
	t.Parallel()
	const left = 40_000
	for name, do := range map[string]func(w http.ResponseWriter, r *http.Request, data []byte){
		"200": func(w http.ResponseWriter, _ *http.Request, data []byte) { _, _ = w.Write(data) },
		"wrong": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data)
		},
		"none": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[left:])
		},
		"other size": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", left, len(data)-1, len(data)+1))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[left:])
		},
		"416": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, content := layerSite(t, 100_000, func(w http.ResponseWriter, r *http.Request, data []byte) {
				if r.Header.Get("Range") == "" {
					_, _ = w.Write(data)
					return
				}
				do(w, r, data)
			})
			b := newBlobs(t)
			l := content.layers[0]
			must(t, os.WriteFile(b.path(l.Digest)+partialSuffix, content.blobs[l.Digest][:left], 0o600))
			img, err := pull(t, newClient(t), s.source(t, ":1"), b)
			must(t, err)
			wantLayers(t, b, img, content)
		})
	}
	t.Run("unasked", func(t *testing.T) {
		t.Parallel()
		s, _ := layerSite(t, 1000, func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusPartialContent) })
		_, err := pull(t, newClient(t), s.source(t, ":1"), newBlobs(t))
		wantCode(t, err, "peer.invalid")
	})
}

// TestEncoding: a blob is hashed as it is stored, whatever its transport says it is (A070).
func TestEncoding(t *testing.T) {
	t.Parallel()
	s, content := layerSite(t, 1000, func(w http.ResponseWriter, r *http.Request, data []byte) {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("Accept-Encoding: %s", got)
		}
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(data)
	})
	b := newBlobs(t)
	img, err := pull(t, newClient(t), s.source(t, ":1"), b)
	must(t, err)
	wantLayers(t, b, img, content)
}

// TestBusy: a registry that has no time is asked again, later, and not for ever (A071).
func TestBusy(t *testing.T) {
	t.Parallel()
	for _, code := range []int{429, 500, 503} {
		for _, after := range []string{"", "1000000000", "-5", "Mon, 02 Jan 2006 15:04:05 GMT", "soon", "99999999999999999999"} {
			content := makeImage(t, 10)
			s := newSite(t, content)
			fails := 3
			s.before = func(w http.ResponseWriter, _ *http.Request) bool {
				if fails--; fails < 0 {
					return false
				}
				w.Header().Set("Retry-After", after)
				w.WriteHeader(code)
				return true
			}
			c := newClient(t)
			var waits []time.Duration
			c.tune.wait = func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }
			_, err := pull(t, c, s.source(t, ":1"), newBlobs(t))
			must(t, err)
			if len(waits) != 3 {
				t.Errorf("%v", waits)
			}
			for i, d := range waits {
				least := c.tune.backoff << i
				if after == "1000000000" {
					least = c.tune.longest
				}
				if d < least || d > c.tune.longest {
					t.Errorf("%d, Retry-After %q: try %d waits %v", code, after, i, d)
				}
			}
			fails = 1000
			_, err = pull(t, newClient(t), s.source(t, ":1"), newBlobs(t))
			wantCode(t, err, "peer.unavailable")
			if fails != 1000-6 {
				t.Errorf("asked %d times", 1000-fails)
			}
		}
	}
}

// TestMissingBlob: a manifest that names what the registry does not have (A074).
func TestMissingBlob(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 10)
	s := newSite(t, content)
	delete(content.blobs, content.layers[0].Digest)
	_, err := pull(t, newClient(t), s.source(t, ":1"), newBlobs(t))
	wantCode(t, err, "peer.lied")
	delete(content.blobs, digestOf(content.config))
	_, err = pull(t, newClient(t), s.source(t, ":1"), newBlobs(t))
	wantCode(t, err, "peer.lied")
}

// TestWords: what a registry says is escaped and short (A080).
func TestWords(t *testing.T) {
	t.Parallel()
	evil := "\x1b]0;owned\x07\r\n\u202e" + strings.Repeat("x", 2_000)
	content := makeImage(t, 10)
	for _, code := range []int{400, 403, 418, 500} {
		s := newSite(t, content)
		s.before = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(code)
			_, _ = w.Write(asJSON(t, map[string]any{"errors": []any{map[string]any{"code": evil, "message": evil}}}))
			return true
		}
		_, err := pull(t, newClient(t), s.source(t, ":1"), newBlobs(t))
		if err == nil || strings.ContainsAny(err.Error(), "\x1b\r\n\u202e") || len(err.Error()) > 1000 {
			t.Errorf("%d: %q", code, err)
		}
	}
	// What is forbidden is not said to be a matter of logging in alone.
	s := newSite(t, content)
	s.before = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write(asJSON(t, map[string]any{"errors": []any{map[string]any{"code": "DENIED", "message": "your plan has ended"}}}))
		return true
	}
	_, err := pull(t, newClient(t), s.source(t, ":1"), newBlobs(t))
	wantCode(t, err, "peer.denied")
	if e, ok := errors.AsType[*machine.Error](err); !ok || !strings.Contains(e.Message, "does not allow") || !strings.Contains(e.Message, "your plan has ended") || !strings.Contains(e.Remedy, "not allowed") {
		t.Errorf("%+v", e)
	}
	for _, p := range []Platform{{OS: evil, Arch: evil}, {OS: "linux", Arch: "amd64", Variant: evil}} {
		err := platformError(amd64, []Platform{p})
		wantCode(t, err, "image.platform")
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000)
	plain := newSite(t, content)
	s := &site{content: content}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	for name, test := range map[string]struct {
		site *site
		code string
	}{"unknown": {s, "peer.tls"}, "plain": {plain, "peer.tls"}, "trusted": {s, ""}} {
		c, src := inPublic(t, test.site)
		c.o.Insecure = nil
		src.ref.host = strings.Replace(src.ref.host, "registry.", "", 1) // the name in httptest's certificate
		if name == "trusted" {
			c.named.TLSClientConfig.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		}
		_, err := c.Resolve(t.Context(), src, amd64)
		wantCode(t, err, test.code)
	}
}

// TestUnreachable says at once what is wrong, without trying again.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	host := l.Addr().String()
	must(t, l.Close())
	c := newClient(t)
	c.tune.wait = func(context.Context, time.Duration) error { t.Error("it waited"); return nil }
	_, err = c.Resolve(t.Context(), parse(t, host+"/app"), amd64)
	wantCode(t, err, "peer.unavailable")
}
