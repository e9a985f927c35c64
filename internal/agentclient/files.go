package agentclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// CopyOut writes a tar of the guest's path to w: the entry named by the path's last element,
// and what is below it. A nil error means that the tar is complete. What cannot be in a tar
// (devices, sockets, FIFOs) is left out and reported as copy.failed after the rest.
func (c *Client) CopyOut(ctx context.Context, path string, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, agentproto.PathFiles+"?path="+url.QueryEscape(path), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out := &localWriter{w: w}
	_, err = io.Copy(out, resp.Body)
	switch {
	case out.err != nil:
		return fmt.Errorf("writing the copied files: %w", out.err)
	case err != nil:
		return c.ended(ctx, err)
	}
	e, ok := trailer(resp)
	if !ok {
		return c.ended(ctx, io.ErrUnexpectedEOF)
	}
	if e != nil {
		return e
	}
	return nil
}

// CopyIn unpacks a tar below the guest's directory dir, which must exist. Entries that the
// guest left out (devices, sockets, FIFOs) are an error beside a filled CopyResult.
func (c *Client) CopyIn(ctx context.Context, dir string, tar io.Reader) (agentproto.CopyResult, error) {
	var res agentproto.CopyResult
	in := &localReader{r: tar}
	resp, err := c.send(ctx, http.MethodPut, agentproto.PathFiles+"?path="+url.QueryEscape(dir), in)
	if err != nil {
		if lerr := in.failed(); lerr != nil && ctx.Err() == nil {
			return res, fmt.Errorf("reading the files to copy: %w", lerr)
		}
		return res, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, agentproto.MaxRequest))
	if err != nil {
		return res, c.ended(ctx, err)
	}
	if err := json.Unmarshal(data, &res); err != nil {
		return res, agentproto.Errorf(agentproto.CodeProtocol, "", "the guest's answer is malformed: %s", clean(err.Error(), 200))
	}
	if res.Error != nil {
		res.Error = cleaned(res.Error)
		return res, res.Error
	}
	return res, nil
}

// localWriter remembers that the failure was the caller's writer and not the guest.
type localWriter struct {
	w   io.Writer
	err error
}

func (l *localWriter) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	if err != nil {
		l.err = err
	}
	return n, err
}

// localReader remembers that the failure was the caller's reader. HTTP/2 reads it in a
// goroutine that may outlive the call.
type localReader struct {
	r   io.Reader
	err syncError
}

func (l *localReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		l.err.set(err)
	}
	return n, err
}

func (l *localReader) failed() error { return l.err.get() }
