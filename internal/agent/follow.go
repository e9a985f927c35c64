//go:build unix

package agent

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

const followBatch = 256 // lines in one write

func (a *Agent) serveEvents(w http.ResponseWriter, r *http.Request) {
	a.lastReaders.add(1)
	defer a.lastReaders.add(-1)
	follow(a, w, r, func(after uint64) (events []agentproto.Event, changed <-chan struct{}) {
		events, _, changed = a.opts.Events.ring.since(after, followBatch)
		return events, changed
	}, func(e agentproto.Event) (uint64, bool) { return e.Seq, e.Type == agentproto.EventStopped })
}

func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	a.lastReaders.add(1)
	defer a.lastReaders.add(-1)
	follow(a, w, r, func(after uint64) ([]agentproto.LogEntry, <-chan struct{}) {
		return a.opts.Log.since(after, followBatch)
	}, func(e agentproto.LogEntry) (uint64, bool) { return e.Seq, e.End })
}

// follow streams what since delivers as JSON lines until an item is the last or the host
// goes. mark returns an item's number and whether it is the last.
func follow[T any](a *Agent, w http.ResponseWriter, r *http.Request,
	since func(after uint64) ([]T, <-chan struct{}), mark func(T) (seq uint64, last bool),
) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil && r.URL.Query().Get("after") != "" {
		refuse(w, agentproto.Errorf(agentproto.CodeInvalid, "", "malformed sequence number"))
		return
	}
	select {
	case a.follow <- struct{}{}:
		defer func() { <-a.follow }()
	default:
		refuse(w, agentproto.Errorf(agentproto.CodeBusy, "end another reader", "%d readers of logs and events are open already", maxFollowers))
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Trailer", agentproto.TrailerError)
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	w.WriteHeader(http.StatusOK)
	for {
		items, changed := since(after)
		last := false
		for _, item := range items {
			if enc.Encode(item) != nil {
				return
			}
			after, last = mark(item)
		}
		if last {
			setTrailer(w, nil)
			return
		}
		if rc.Flush() != nil {
			return
		}
		if len(items) == followBatch {
			continue
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// setTrailer ends a streaming answer: with an error, or with the empty trailer that says it
// is complete. A header value takes no more than ASCII.
func setTrailer(w http.ResponseWriter, e *agentproto.Error) {
	if e == nil {
		w.Header()[agentproto.TrailerError] = []string{""}
		return
	}
	short := *e
	short.Message = short.Message[:runeCut(short.Message, 2000)]
	data, err := json.Marshal(&short)
	if err != nil {
		return // no trailer: the answer counts as cut
	}
	var b strings.Builder
	for _, c := range string(data) {
		switch {
		case c < utf8.RuneSelf:
			b.WriteRune(c)
		case c > 0xffff:
			b.WriteString(`\ufffd`)
		default:
			b.WriteString(`\u` + strconv.FormatInt(0x10000+int64(c), 16)[1:])
		}
	}
	w.Header()[agentproto.TrailerError] = []string{b.String()}
}
