package linuxenv

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// Side is the side in the virtual machine.
type Side struct {
	Handler http.Handler // of requests; those for RunPath and TempPath are answered by itself
	Build   string       // of this program
	Temp    string       // where the sessions' temporary folders are; "": they have none
}

// Serve greets, answers requests until in ends, and returns when that has happened and every answer is
// over.
func (s Side) Serve(ctx context.Context, in io.ReadCloser, out io.WriteCloser) error {
	if _, err := fmt.Fprintf(out, "%s%s\n", greeting, s.Build); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var answers sync.WaitGroup
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+RunPath, serveRun)
	folders := &temp{top: s.Temp}
	defer folders.close()
	mux.Handle("POST "+TempPath, folders)
	mux.Handle("/", s.Handler)
	conn := &pipes{
		Reader: in, Writer: out, deadline: func(time.Time) error { return nil },
		close: sync.OnceValue(func() error { _ = in.Close(); return out.Close() }),
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	(&http2.Server{MaxConcurrentStreams: maxStreams, MaxUploadBufferPerStream: streamBytes, MaxUploadBufferPerConnection: 64 << 20}).ServeConn(conn, &http2.ServeConnOpts{
		Context: ctx,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answers.Add(1)
			defer answers.Done()
			mux.ServeHTTP(w, r)
		}),
		BaseConfig: &http.Server{ErrorLog: log.New(io.Discard, "", 0), MaxHeaderBytes: 64 << 10}, //nolint:gosec // one peer, that started us; streams last as long as machines
	})
	cancel()
	answers.Wait()
	return nil
}
