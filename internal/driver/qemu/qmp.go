package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Limits of what QEMU may say. The guest can influence some of it (VSERPORT_CHANGE), and a
// QEMU that a guest took over may say anything.
const (
	maxMessage   = 1 << 20 // bytes of one line
	maxDepth     = 64      // nesting of one message
	maxEventRate = 2000    // events in one second, except BLOCK_IO_ERROR
)

// eventBlockError comes once for each failed request of a disk, which on a full host disk is as
// often as the guest can write. It is not counted: the guest has done nothing wrong.
const eventBlockError = "BLOCK_IO_ERROR"

// qmpMessage is any line that QEMU sends (docs/interop/qmp-spec.rst).
type qmpMessage struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *qmpError       `json:"error"`
	ID       *uint64         `json:"id"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
}

// qmpError is QEMU's refusal of a command.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error implements error.
func (e *qmpError) Error() string { return vmm.Escape(vmm.Clip(e.Desc, 500)) }

// errQMPClosed is in the chain of the error of a command whose QEMU went away.
var errQMPClosed = errors.New("QEMU closed its monitor")

// qmp is a connection to QEMU's monitor. It is safe for concurrent use.
type qmp struct {
	conn    *net.UnixConn
	onEvent func(name string, data json.RawMessage) // called one at a time, in order; must not block

	write sync.Mutex // one command at a time goes out

	mu      sync.Mutex
	pending map[uint64]chan qmpMessage
	lastID  uint64
	err     error         // why reading ended
	done    chan struct{} // closed when reading ended
}

// openQMP negotiates with QEMU. It returns once QEMU takes commands, which it does when the
// machine is complete. The connection is closed on error.
func openQMP(ctx context.Context, conn *net.UnixConn, onEvent func(string, json.RawMessage)) (*qmp, error) {
	q := &qmp{conn: conn, onEvent: onEvent, pending: map[uint64]chan qmpMessage{}, done: make(chan struct{})}
	greeted := make(chan struct{})
	go q.read(greeted)
	var err error
	select {
	case <-greeted:
		_, err = q.execute(ctx, "qmp_capabilities", nil)
	case <-q.done:
		err = q.failure()
	case <-ctx.Done():
		err = fmt.Errorf("waiting for QEMU's greeting: %w", ctx.Err())
	}
	if err != nil {
		_ = conn.Close()
		<-q.done
		return nil, err
	}
	return q, nil
}

// read handles what QEMU says until it stops or breaks the protocol.
func (q *qmp) read(greeted chan struct{}) {
	err := q.readAll(greeted)
	q.mu.Lock()
	q.err = err
	q.mu.Unlock()
	close(q.done) // before a writer can find the connection closed, so that it knows why
	_ = q.conn.Close()
}

func (q *qmp) readAll(greeted chan struct{}) error {
	r := bufio.NewReaderSize(q.conn, 16<<10)
	var rate eventRate
	waiting := true
	for {
		line, err := readLine(r)
		if err != nil {
			return err
		}
		msg, err := parseMessage(line)
		switch {
		case err != nil:
			return err
		case waiting && msg.Greeting == nil:
			return errors.New("the first message is not a greeting")
		case waiting:
			waiting = false
			close(greeted)
		case msg.Event != "":
			if msg.Event != eventBlockError && !rate.allow(time.Now()) {
				return fmt.Errorf("more than %d events in a second", maxEventRate)
			}
			q.onEvent(msg.Event, msg.Data)
		default:
			q.answer(msg)
		}
	}
}

// answer hands a reply to the command that waits for it; others are dropped.
func (q *qmp) answer(msg qmpMessage) {
	if msg.ID == nil {
		return
	}
	q.mu.Lock()
	c := q.pending[*msg.ID]
	delete(q.pending, *msg.ID)
	q.mu.Unlock()
	if c != nil {
		c <- msg
	}
}

// readLine returns one line of at most maxMessage bytes.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxMessage {
			return nil, fmt.Errorf("a message is longer than %d bytes", maxMessage)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("%w: %w", errQMPClosed, err)
		}
	}
}

// parseMessage reads one line.
func parseMessage(line []byte) (qmpMessage, error) {
	var m qmpMessage
	if tooDeep(line) {
		return m, fmt.Errorf("a message is nested deeper than %d", maxDepth)
	}
	if err := json.Unmarshal(bytes.TrimSpace(line), &m); err != nil {
		return qmpMessage{}, fmt.Errorf("reading a message: %w", err)
	}
	return m, nil
}

// tooDeep counts brackets outside strings.
func tooDeep(line []byte) bool {
	depth, inString := 0, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// eventRate counts events in windows of a second.
type eventRate struct {
	since time.Time
	n     int
}

func (e *eventRate) allow(now time.Time) bool {
	if now.Sub(e.since) >= time.Second {
		e.since, e.n = now, 0
	}
	e.n++
	return e.n <= maxEventRate
}

// execute runs a command and waits for its answer or for ctx.
func (q *qmp) execute(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	return q.send(ctx, command, arguments, nil)
}

// giveFD puts a descriptor into QEMU, which knows it by name until a command uses it up.
func (q *qmp) giveFD(ctx context.Context, name string, f *os.File) error {
	_, err := q.send(ctx, "getfd", map[string]string{"fdname": name}, f)
	return err
}

func (q *qmp) send(ctx context.Context, command string, arguments any, f *os.File) (json.RawMessage, error) {
	answer := make(chan qmpMessage, 1)
	q.mu.Lock()
	q.lastID++
	id := q.lastID
	q.pending[id] = answer
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		delete(q.pending, id)
		q.mu.Unlock()
	}()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", command, err)
	}
	if err := q.writeLine(ctx, append(line, '\n'), f); err != nil {
		return nil, fmt.Errorf("sending %s: %w", command, err)
	}
	select {
	case msg := <-answer:
		if msg.Error != nil {
			return nil, fmt.Errorf("%s: %w", command, msg.Error)
		}
		return msg.Return, nil
	case <-q.done:
		return nil, fmt.Errorf("%s: %w", command, q.failure())
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the answer to %s: %w", command, ctx.Err())
	}
}

// writeLine sends one command, with a descriptor beside it if f is not nil. A QEMU that does
// not read is not waited for beyond ctx.
func (q *qmp) writeLine(ctx context.Context, line []byte, f *os.File) error {
	var control []byte
	if f != nil {
		control = syscall.UnixRights(int(f.Fd())) //nolint:gosec // a descriptor fits in an int
	}
	q.write.Lock()
	defer q.write.Unlock()
	_ = q.conn.SetWriteDeadline(time.Time{}) // fails on a closed connection only, as the write will
	stop := context.AfterFunc(ctx, func() { _ = q.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	n, _, err := q.conn.WriteMsgUnix(line, control, nil)
	for err == nil && n < len(line) {
		line = line[n:]
		n, err = q.conn.Write(line)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if broken := q.broken(); broken != nil {
		return broken
	}
	return fmt.Errorf("%w: %w", errQMPClosed, err)
}

// failure says why the monitor is gone; for a broken protocol it is a vmm.qmp error.
func (q *qmp) failure() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil || errors.Is(q.err, errQMPClosed) {
		return errQMPClosed
	}
	return machine.Errorf("vmm.qmp", "report it, with the VMM's log", "QEMU broke the monitor protocol: %w", q.err)
}

// broken reports whether QEMU broke the protocol, as opposed to ending.
func (q *qmp) broken() error {
	select {
	case <-q.done:
	default:
		return nil
	}
	if err := q.failure(); !errors.Is(err, errQMPClosed) {
		return err
	}
	return nil
}
