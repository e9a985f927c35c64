package nix

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what is kept of nix's log.
const (
	maxLine       = 64 << 10
	maxText       = 8 << 10 // of one message
	maxCauses     = 16
	maxTail       = 40
	maxActivities = 4096
)

// Event is a step of nix's work.
type Event struct {
	Text string // what it does now: "building web-image"; may repeat
	Log  string // a line that a build printed, or a warning; "" when there is none
	From string // the derivation that Log comes from; "" is nix itself

	Builds    Count // derivations
	Downloads Count // store paths
	Bytes     Count // of downloads
}

// Count is how far something is. Expected grows while nix finds out what it has to do.
type Count struct{ Done, Expected uint64 }

// Kinds of activities and results of Nix's internal-json log (src/libutil/logging.hh, the same
// from Nix 2.4 to today).
const (
	actCopyPath     = 100
	actFileTransfer = 101
	actCopyPaths    = 103
	actBuilds       = 104
	actBuild        = 105
	actFetchTree    = 109 // named differently over time; only its text is used

	resBuildLogLine = 101
	resProgress     = 105
	resSetExpected  = 106
	resPostBuildLog = 107
)

// log follows one nix process.
type log struct {
	progress func(Event)
	now      Event
	acts     map[uint64]activity
	causes   []string
	tail     []string
}

type activity struct {
	kind           int
	name           string // derivation, for messages
	done, expected uint64
}

func newLog(progress func(Event)) *log {
	return &log{progress: progress, acts: map[uint64]activity{}}
}

// message is one line of the log. Fields differ by kind: numbers, texts.
type message struct {
	Action string            `json:"action"`
	ID     uint64            `json:"id"`
	Level  int               `json:"level"`
	Type   int               `json:"type"`
	Text   string            `json:"text"`
	Msg    string            `json:"msg"`
	Raw    string            `json:"raw_msg"`
	Fields []json.RawMessage `json:"fields"`
}

func (m message) number(i int) uint64 {
	var n uint64
	if i < len(m.Fields) {
		_ = json.Unmarshal(m.Fields[i], &n) // what is no number counts as none
	}
	return n
}

func (m message) text(i int) string {
	var s string
	if i < len(m.Fields) {
		_ = json.Unmarshal(m.Fields[i], &s)
	}
	return s
}

// line takes one line of standard error, which may be anything.
func (l *log) line(line []byte) {
	rest, ok := bytes.CutPrefix(line, []byte("@nix "))
	var m message
	if !ok || json.Unmarshal(rest, &m) != nil {
		l.plain(string(line))
		return
	}
	switch m.Action {
	case "msg":
		l.message(m)
	case "start":
		l.start(m)
	case "stop":
		delete(l.acts, m.ID)
	case "result":
		l.result(m)
	}
}

// plain is a line that did not come from nix's logger: git, ssh, or nix before it reads its
// arguments.
func (l *log) plain(s string) {
	s = clip(clean(s), maxText)
	if strings.TrimSpace(s) == "" {
		return
	}
	l.keep(s)
	if text, ok := strings.CutPrefix(s, "error: "); ok {
		l.cause(text)
	}
	l.say(Event{Log: s})
}

func (l *log) message(m message) {
	text := clip(clean(m.Msg), maxText)
	if text == "" {
		text = clip(clean(m.Raw), maxText)
	}
	if m.Level > 2 || text == "" { // notices and more are not about failures
		return
	}
	if strings.Contains(text, "not writing modified lock file") {
		return // we asked for it, by overriding an input
	}
	l.keep(text)
	isError := strings.HasPrefix(text, "error:")
	if m.Level == 0 && isError {
		l.cause(strings.TrimSpace(strings.TrimPrefix(text, "error:")))
	}
	if !isError {
		l.say(Event{Log: text})
	}
}

func (l *log) start(m message) {
	a := activity{kind: m.Type}
	if m.Type == actBuild {
		a.name = derivationName(m.text(0))
	}
	if len(l.acts) < maxActivities {
		l.acts[m.ID] = a
	}
	switch {
	case m.Type == actBuild && a.name != "":
		l.now.Text = "building " + a.name
	case m.Type == actCopyPath:
		l.now.Text = "fetching " + derivationName(m.text(0))
	case m.Type == actFileTransfer, m.Type == actFetchTree, m.Level <= 3 && m.Text != "":
		l.now.Text = clip(clean(m.Text), 200)
	default:
		return
	}
	l.say(Event{})
}

func (l *log) result(m message) {
	a := l.acts[m.ID]
	switch m.Type {
	case resBuildLogLine, resPostBuildLog:
		text := clip(clean(m.text(0)), maxText)
		l.keep(text)
		l.say(Event{Log: text, From: a.name})
	case resProgress:
		a.done, a.expected = m.number(0), m.number(1)
		l.update(m.ID, a)
		switch a.kind {
		case actBuilds:
			l.now.Builds = Count{a.done, max(a.done, a.expected)}
		case actCopyPaths:
			l.now.Downloads = Count{a.done, max(a.done, a.expected)}
		case actCopyPath, actFileTransfer:
			l.sumBytes()
		default:
			return
		}
		l.say(Event{})
	case resSetExpected:
		if m.number(0) == actFileTransfer {
			l.now.Bytes.Expected = max(l.now.Bytes.Done, m.number(1))
			l.say(Event{})
		}
	}
}

// update stores an activity that is known.
func (l *log) update(id uint64, a activity) {
	if _, ok := l.acts[id]; ok {
		l.acts[id] = a
	}
}

// sumBytes adds up the running transfers; a finished one keeps its part in Done because the sum
// never falls.
func (l *log) sumBytes() {
	var done uint64
	for _, a := range l.acts {
		if a.kind == actFileTransfer {
			done += a.done
		}
	}
	l.now.Bytes.Done = max(l.now.Bytes.Done, done)
	l.now.Bytes.Expected = max(l.now.Bytes.Expected, l.now.Bytes.Done)
}

func (l *log) say(e Event) {
	if l.progress == nil {
		return
	}
	e.Text, e.Builds, e.Downloads, e.Bytes = l.now.Text, l.now.Builds, l.now.Downloads, l.now.Bytes
	l.progress(e)
}

func (l *log) keep(s string) {
	if len(l.tail) == maxTail {
		l.tail = append(l.tail[:0], l.tail[1:]...)
	}
	l.tail = append(l.tail, s)
}

func (l *log) cause(s string) {
	if len(l.causes) == maxCauses {
		l.causes = append(l.causes[:0], l.causes[1:]...)
	}
	l.causes = append(l.causes, s)
}

// derivationName returns "web-image" of "/nix/store/HASH-web-image.drv".
func derivationName(p string) string {
	base := p[strings.LastIndexByte(p, '/')+1:]
	if _, name, ok := strings.Cut(base, "-"); ok {
		base = name
	}
	return clip(clean(strings.TrimSuffix(base, ".drv")), 80)
}

// escapes are what a terminal obeys.
func escapes() *regexp.Regexp {
	return regexp.MustCompile("\x1b(\\[[0-9;?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)?|.)?")
}

// clean removes what a terminal would obey: colours, cursor movements, titles, control
// characters. Line ends and tabs stay.
func clean(s string) string {
	s = escapes().ReplaceAllString(s, "")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return r
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s)
}

// clip cuts a text at n bytes, at the beginning of a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
