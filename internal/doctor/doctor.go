package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Level is how a check ended.
type Level string

// Levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // works, but not as well as it could
	Fail Level = "fail"
)

// Finding is the answer of one check.
type Finding struct {
	Name     string `json:"name"`
	Required bool   `json:"required"` // a failure makes the whole report fail
	Level    Level  `json:"level"`
	Message  string `json:"message"`         // what was found, one line
	Fix      string `json:"fix,omitempty"`   // what to do: a command that can be pasted, where there is one
	Fixed    bool   `json:"fixed,omitempty"` // this run repaired it
	TookMS   int64  `json:"took_ms"`
}

// Check is one question about the host.
type Check struct {
	Name     string
	Required bool
	Run      func(ctx context.Context) Finding // fills Level, Message and Fix
	// Repair does the safe fix; nil when there is none. It is called only for a check that is
	// not OK, and Run is called again after it.
	Repair func(ctx context.Context) error
}

// Report is all findings.
type Report struct {
	OK       bool      `json:"ok"` // every required check passed
	Findings []Finding `json:"checks"`
}

// checkTimeout bounds one check: a probe may boot a tiny guest under emulation.
const checkTimeout = 90 * time.Second

// Run runs the checks one after the other and reports each as it ends. With fix, what is safe
// is repaired. The error is ctx's.
func Run(ctx context.Context, checks []Check, fix bool, each func(Finding)) (Report, error) {
	r := Report{OK: true}
	for _, c := range checks {
		f := runOne(ctx, c)
		if fix && f.Level != OK && c.Repair != nil && ctx.Err() == nil {
			f = repair(ctx, c, f)
		}
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		if f.Required && f.Level == Fail {
			r.OK = false
		}
		r.Findings = append(r.Findings, f)
		if each != nil {
			each(f)
		}
	}
	return r, nil
}

func runOne(ctx context.Context, c Check) Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	start := time.Now()
	f := c.Run(ctx)
	f.Name, f.Required = c.Name, c.Required
	f.TookMS = time.Since(start).Milliseconds()
	if f.Level == Fail && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		f.Message = fmt.Sprintf("no answer within %s (%s)", checkTimeout, f.Message)
	}
	return f
}

func repair(ctx context.Context, c Check, before Finding) Finding {
	if err := c.Repair(ctx); err != nil {
		before.Message += "; repairing it did not work: " + err.Error()
		before.Fix = fixOf(err, before.Fix)
		return before
	}
	after := runOne(ctx, c)
	after.Fixed = after.Level == OK
	return after
}

func ok(format string, args ...any) Finding {
	return Finding{Level: OK, Message: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) Finding {
	return Finding{Level: Warn, Message: fmt.Sprintf(format, args...), Fix: fix}
}

func fail(fix, format string, args ...any) Finding {
	return Finding{Level: Fail, Message: fmt.Sprintf(format, args...), Fix: fix}
}

// Problem is an error that knows its fix. Host's functions may return one; the fix is then
// shown instead of the check's own.
type Problem struct {
	Err error
	Fix string
}

// Error implements error.
func (p *Problem) Error() string { return p.Err.Error() }

// Unwrap returns the wrapped cause.
func (p *Problem) Unwrap() error { return p.Err }

// fixOf returns the fix that err knows, or the one given.
func fixOf(err error, fix string) string {
	var p *Problem
	if errors.As(err, &p) && p.Fix != "" {
		return p.Fix
	}
	return fix
}
