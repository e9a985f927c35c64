package proxy

import "time"

// A guest may have this many new names looked up at once, and one more in this time: what it encodes
// in the names themselves leaves slowly at most.
const (
	lookupBurst = 200
	lookupEvery = 100 * time.Millisecond
)

// limiter is a bucket of tokens. Its user locks it.
type limiter struct {
	burst int
	every time.Duration

	used int
	last time.Time
}

// take takes a token at a time, if there is one.
func (l *limiter) take(now time.Time) bool {
	if back := int(now.Sub(l.last) / l.every); back > 0 {
		l.used = max(0, l.used-back)
		l.last = l.last.Add(time.Duration(back) * l.every)
		if l.used == 0 {
			l.last = now
		}
	}
	if l.used >= l.burst {
		return false
	}
	l.used++
	return true
}
