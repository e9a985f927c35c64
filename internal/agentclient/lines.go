package agentclient

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Events calls fn for each event after sequence number after (0: all that the agent still
// knows) until fn returns an error, which it returns, ctx ends or the stream is cut.
func (c *Client) Events(ctx context.Context, after uint64, fn func(agentproto.Event) error) error {
	path := agentproto.PathEvents + "?after=" + strconv.FormatUint(after, 10)
	return lines(ctx, c, path, func(e agentproto.Event) (bool, error) { return false, fn(e) })
}

// Logs calls fn for each log entry after sequence number after (0: all that the agent still
// has). It returns nil after the guest's last entry, which fn gets too; otherwise as Events.
func (c *Client) Logs(ctx context.Context, after uint64, fn func(agentproto.LogEntry) error) error {
	path := agentproto.PathLogs + "?after=" + strconv.FormatUint(after, 10)
	return lines(ctx, c, path, func(e agentproto.LogEntry) (bool, error) { return e.End, fn(e) })
}

// Diff calls fn for each difference between the image and the machine's root, the closing
// mark excluded. A nil error means that it was all of them.
func (c *Client) Diff(ctx context.Context, fn func(agentproto.Change) error) error {
	return lines(ctx, c, agentproto.PathDiff, func(ch agentproto.Change) (bool, error) {
		if ch.End {
			return true, nil
		}
		return false, fn(ch)
	})
}

// lines reads JSON lines until fn says that it has seen the last.
func lines[T any](ctx context.Context, c *Client, path string, fn func(T) (last bool, err error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r := bufio.NewReaderSize(resp.Body, 4<<10)
	for {
		line, err := readLine(r, agentproto.MaxLine)
		if err != nil {
			return streamError(ctx, c, resp, err)
		}
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			return agentproto.Errorf(agentproto.CodeProtocol, "", "a malformed line from the guest: %s", clean(err.Error(), 200))
		}
		last, err := fn(v)
		if err != nil || last {
			return err
		}
	}
}

// readLine returns the next line without its newline, which must be there.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, agentproto.Errorf(agentproto.CodeProtocol, "", "a line of more than %d bytes from the guest", limit)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}

// streamError is the error of a streaming answer that stopped with err: what the guest says
// in the trailer, or that it was cut.
func streamError(ctx context.Context, c *Client, resp *http.Response, err error) error {
	if errors.Is(err, io.EOF) {
		if e, ok := trailer(resp); ok && e != nil {
			return e
		}
	}
	if ours, ok := errors.AsType[*agentproto.Error](err); ok {
		return ours
	}
	return c.ended(ctx, err)
}

// trailer returns the error in an answer's trailer; ok says that there was a trailer, so that
// the answer is complete.
func trailer(resp *http.Response) (e *agentproto.Error, ok bool) {
	v := resp.Trailer[agentproto.TrailerError]
	switch {
	case len(v) != 1:
		return nil, false
	case v[0] == "":
		return nil, true
	}
	e = &agentproto.Error{}
	if json.Unmarshal([]byte(v[0]), e) != nil || e.Code == "" {
		return agentproto.Errorf(agentproto.CodeProtocol, "", "a malformed trailer from the guest"), true
	}
	return cleaned(e), true
}
