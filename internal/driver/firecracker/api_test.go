package firecracker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// peer plays a Firecracker that says the same whatever it is asked, byte for byte.
func peer(t *testing.T, says string, stay bool) *api {
	t.Helper()
	a := newAPI(func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			r := bufio.NewReader(theirs)
			for { // the request's head
				line, err := r.ReadString('\n')
				if err != nil || line == "\r\n" {
					break
				}
			}
			go func() { _, _ = io.Copy(io.Discard, r) }()
			_, _ = io.WriteString(theirs, says)
			if stay {
				<-t.Context().Done()
			}
			_ = theirs.Close()
		}()
		return ours, nil
	})
	t.Cleanup(a.close)
	return a
}

func TestAPIAnswers(t *testing.T) {
	if err := peer(t, "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n", true).call(t.Context(), startRequest()); err != nil {
		t.Errorf("204: %v", err)
	}
	const text = `{"fault_message":"no \u001b[31m way"}`
	err := peer(t, "HTTP/1.1 400 \r\nContent-Type: application/json\r\nContent-Length: 37\r\n\r\n"+text, true).call(t.Context(), startRequest())
	f, ok := errors.AsType[*fault](err)
	if !ok || f.Status != 400 || f.Text != `no \x1b[31m way` {
		t.Errorf("400: %v", err)
	}
}

// What a broken or taken-over Firecracker may say (threats.md A240): bounded, and a vmm.api error
// or a closed connection.
func TestAPIHostile(t *testing.T) {
	for name, says := range map[string]string{
		"no HTTP":               "hello\r\n\r\n",
		"endless head":          "HTTP/1.1 204 \r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 2000),
		"endless body":          "HTTP/1.1 400 \r\nContent-Length: 1073741824\r\n\r\n" + strings.Repeat("x", 2*maxAnswer),
		"negative length":       "HTTP/1.1 400 \r\nContent-Length: -5\r\n\r\n{}",
		"closes in the middle":  "HTTP/1.1 400 \r\nContent-Length: 50\r\n\r\n{",
		"closes at once":        "",
		"closes in the heading": "HTTP/1.1 20",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := peer(t, says, false).call(ctx, startRequest())
			if machine.CodeOf(err) != "vmm.api" && !errors.Is(err, errAPIClosed) || ctx.Err() != nil {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("redirect", func(t *testing.T) {
		err := peer(t, "HTTP/1.1 307 \r\nLocation: http://localhost/actions\r\nContent-Length: 0\r\n\r\n", true).call(t.Context(), startRequest())
		if f, ok := errors.AsType[*fault](err); !ok || f.Status != 307 {
			t.Errorf("got %v, want a refusal", err)
		}
	})
	t.Run("silence", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := peer(t, "", true).call(ctx, startRequest()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a deadline", err)
		}
	})
}
