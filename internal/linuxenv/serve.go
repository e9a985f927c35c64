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

// Serve is the side in the virtual machine: it greets, answers requests with h until in ends, and
// returns when that has happened and every answer is over. Requests for RunPath are answered by itself.
func Serve(ctx context.Context, in io.ReadCloser, out io.WriteCloser, h http.Handler, build string) error {
	if _, err := fmt.Fprintf(out, "%s%s\n", greeting, build); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var answers sync.WaitGroup
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+RunPath, serveRun)
	mux.Handle("/", h)
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
