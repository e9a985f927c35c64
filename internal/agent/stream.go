//go:build unix

package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

const (
	startLimit  = 10 * time.Second           // for the first record of a stream
	creditBatch = agentproto.StdinWindow / 4 // bytes of input that are credited together
)

// stream is one exchange of records with the host.
type stream struct {
	ctx context.Context // ends when the host resets the stream or its connection ends
	w   http.ResponseWriter
	rc  *http.ResponseController
	in  *agentproto.RecordReader

	mu     sync.Mutex // guards out
	out    *agentproto.RecordWriter
	closed bool // the handler has returned: out must not be touched
}

// openStream reads the start record into start. When that fails the request has been refused.
func openStream(w http.ResponseWriter, r *http.Request, start any) (*stream, bool) {
	s := &stream{
		ctx: r.Context(), w: w, rc: http.NewResponseController(w),
		in: agentproto.NewRecordReader(r.Body), out: agentproto.NewRecordWriter(w),
	}
	s.rc.SetReadDeadline(time.Now().Add(startLimit))
	t, body, err := s.in.Next()
	if err == nil && t != agentproto.RecStart {
		err = agentproto.Errorf(agentproto.CodeProtocol, "", "the first record of a stream must be the start")
	}
	if err == nil {
		err = agentproto.Decode(body, start)
	}
	if err != nil {
		var ours *agentproto.Error
		if !errors.As(err, &ours) {
			ours = agentproto.Errorf(agentproto.CodeInvalid, "", "reading the start record: %v", err)
		}
		refuse(w, ours)
		return nil, false
	}
	s.rc.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/octet-stream")
	return s, true
}

// write sends bytes to the host. It blocks while the host does not read, and fails once the
// stream has ended.
func (s *stream) write(t agentproto.RecordType, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errStreamClosed
	}
	if err := s.out.Write(t, p); err != nil {
		return err
	}
	return s.rc.Flush()
}

func (s *stream) writeJSON(t agentproto.RecordType, v any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.out.WriteJSON(t, v); err != nil {
		return err
	}
	return s.rc.Flush()
}

// exit sends the last record. It is not flushed: it leaves with the end of the stream, in one
// frame, when the handler returns.
func (s *stream) exit(e agentproto.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.out.WriteJSON(agentproto.RecExit, e) // an error means that the host is gone
}

var errStreamClosed = errors.New("stream closed")

// close makes every later write fail. A handler whose stream others write to calls it last.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// stopReading wakes a blocked read of s.in for good.
func (s *stream) stopReading() { s.rc.SetReadDeadline(time.Unix(1, 0)) }

// input passes a stream's records on to a program until the stream is read no more.
type input struct {
	agent  *Agent
	s      *stream
	p      *program
	taken  bool // the host may send input
	active func()
	broken func(*agentproto.Error) // the host broke the protocol
	queue  stdinQueue
	feeder sync.WaitGroup
}

// run reads records until the host is gone, stopReading or a violation.
func (in *input) run() {
	in.queue.init()
	in.feeder.Go(func() { in.agent.guarded(in.broken, in.feed) })
	err := in.records()
	if !errors.Is(err, io.EOF) { // after an orderly end of the host's records what is queued still counts
		in.queue.abandon()
	}
	if ours, ok := errors.AsType[*agentproto.Error](err); ok {
		in.broken(ours)
	}
}

func (in *input) records() error {
	for {
		t, body, err := in.s.in.Next()
		if err != nil {
			return err
		}
		in.active()
		switch t {
		case agentproto.RecStdin:
			if !in.taken {
				return agentproto.Errorf(agentproto.CodeProtocol, "", "input for a program that takes none")
			}
			if err := in.queue.push(body); err != nil {
				return err
			}
		case agentproto.RecResize:
			var v agentproto.Resize
			if err := agentproto.Decode(body, &v); err != nil {
				return err
			}
			if in.p.tty != nil {
				_ = resize(in.p.tty, v.Rows, v.Cols) // the program may have ended
			}
		case agentproto.RecSignal:
			var v agentproto.Signal
			if err := agentproto.Decode(body, &v); err != nil {
				return err
			}
			sig, serr := guestproc.ParseSignal(v.Name)
			if serr != nil {
				return serr
			}
			_ = in.p.proc.Signal(sig) // likewise
		default:
			return agentproto.Errorf(agentproto.CodeProtocol, "", "a record of type %d out of order", t)
		}
	}
}

// feed writes queued input to the program and gives the host credit for it.
func (in *input) feed() {
	uncredited := 0
	for {
		p, eof := in.queue.pop()
		if eof {
			in.endInput()
			return
		}
		if p == nil {
			return
		}
		if in.p.stdin != nil {
			if _, err := in.p.stdin.Write(p); err != nil {
				return // it reads no more: without credit the host stops sending
			}
		}
		uncredited += len(p)
		if uncredited >= creditBatch {
			if in.s.writeJSON(agentproto.RecCredit, agentproto.Credit{Bytes: uncredited}) != nil {
				return
			}
			uncredited = 0
		}
	}
}

func (in *input) endInput() {
	switch f := in.p.stdin; {
	case f == nil:
	case f == in.p.tty:
		_, _ = f.Write(endOfInput(f))
	default:
		f.Close()
	}
}

// wait returns when the feeder has ended. The caller makes sure that a write to the program
// does not block any more, and that run has returned.
func (in *input) wait() {
	in.queue.abandon()
	in.feeder.Wait()
}

// stdinQueue holds input that the program has not taken, up to agentproto.StdinWindow bytes.
type stdinQueue struct {
	mu   sync.Mutex
	cond *sync.Cond
	data []byte // what is queued
	eof  bool   // nothing comes after data
	gone bool   // nobody needs it any more
	free []byte // the array of the last pop, to be used again
}

func (q *stdinQueue) init() { q.cond = sync.NewCond(&q.mu) }

// push queues p; an empty p is the end of input.
func (q *stdinQueue) push(p []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.eof:
		return agentproto.Errorf(agentproto.CodeProtocol, "", "input after the end of input")
	case len(p) == 0:
		q.eof = true
	case len(q.data)+len(p) > agentproto.StdinWindow:
		return agentproto.Errorf(agentproto.CodeProtocol, "", "more input than there is credit for")
	default:
		q.data = append(q.data, p...)
	}
	q.cond.Signal()
	return nil
}

// pop waits for input and returns it; it stays valid until the next pop. nil, true is the end
// of input; nil, false says that the stream has ended.
func (q *stdinQueue) pop() ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.data) == 0 && !q.eof && !q.gone {
		q.cond.Wait()
	}
	if q.gone || len(q.data) == 0 {
		return nil, q.eof && !q.gone
	}
	p := q.data
	q.data, q.free = q.free[:0], p
	return p, false
}

func (q *stdinQueue) abandon() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gone = true
	q.cond.Signal()
}

// failedExit is the exit of a program that could not be started, with a shell's codes.
func failedExit(e *agentproto.Error) agentproto.Exit {
	code := 125
	switch e.Code {
	case agentproto.CodeNotFound:
		code = 127
	case agentproto.CodeNotExecutable:
		code = 126
	}
	return agentproto.Exit{Code: code, Error: e}
}

// asError returns err as the *agentproto.Error it is or wraps it in one.
func asError(err error) *agentproto.Error {
	if ours, ok := errors.AsType[*agentproto.Error](err); ok {
		return ours
	}
	return agentproto.Errorf(agentproto.CodeInternal, "", "%v", err)
}
