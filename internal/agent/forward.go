//go:build unix

package agent

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

const (
	connectLimit = 5 * time.Second // to a port of the guest itself
	forwardChunk = 32 << 10        // bytes of one read from a guest's port
)

// serveForward connects the stream to a TCP port on the guest's loopback.
func (a *Agent) serveForward(w http.ResponseWriter, r *http.Request) {
	port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
	if err != nil || port == 0 {
		refuse(w, agentproto.Errorf(agentproto.CodeInvalid, "", "malformed port number"))
		return
	}
	hosts := []string{"127.0.0.1", "::1"}
	if h := r.URL.Query().Get("host"); h != "" {
		ip := net.ParseIP(h)
		if ip == nil || !ip.IsLoopback() {
			refuse(w, agentproto.Errorf(agentproto.CodeInvalid, "name an address of the guest's loopback", "%.64q is not a loopback address", h))
			return
		}
		hosts = []string{ip.String()}
	}
	conn, err := dialFirst(r, hosts, strconv.FormatUint(port, 10))
	if err != nil {
		refuse(w, agentproto.Errorf(agentproto.CodeConnect, "start the program that should listen there, on 127.0.0.1 or all addresses",
			"nothing answers on port %d in the guest: %v", port, err))
		return
	}
	defer conn.Close()
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	if rc.Flush() != nil {
		return
	}
	a.exchange(w, r, rc, conn)
}

func dialFirst(r *http.Request, hosts []string, port string) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: connectLimit}
	var first error
	for _, h := range hosts {
		c, err := d.DialContext(r.Context(), "tcp", net.JoinHostPort(h, port))
		if err == nil {
			return c.(*net.TCPConn), nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// exchange copies both ways until both directions have ended or one is cut.
func (a *Agent) exchange(w http.ResponseWriter, r *http.Request, rc *http.ResponseController, conn *net.TCPConn) {
	var up sync.WaitGroup
	cut := func() { conn.SetDeadline(time.Unix(1, 0)) } // wakes the other direction
	up.Go(func() {
		a.guarded(func(*agentproto.Error) { cut() }, func() {
			_, err := io.Copy(conn, r.Body)
			if err != nil || conn.CloseWrite() != nil {
				cut()
			}
		})
	})
	rec := agentproto.NewRecordWriter(w)
	buf := make([]byte, forwardChunk)
	var err error
	for {
		var n int
		n, err = conn.Read(buf)
		if n > 0 {
			if rec.Write(agentproto.RecStdout, buf[:n]) != nil || rc.Flush() != nil {
				err = io.ErrClosedPipe
				break
			}
		}
		if err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		if rec.Write(agentproto.RecStdout, nil) == nil && rc.Flush() == nil {
			up.Wait() // the host may go on sending
			return
		}
	}
	conn.Close()
	rc.SetReadDeadline(time.Unix(1, 0))
	up.Wait()
	// The guest's program reset the connection, or the host is gone. Ending without the empty
	// record, and abruptly, tells the host that it is no orderly end.
	panic(http.ErrAbortHandler)
}
