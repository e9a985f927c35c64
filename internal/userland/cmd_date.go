package userland

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

func runDate(c *call) int {
	o, args, ok := c.parse("ud:r:s:RI::f:", longOptions{
		"utc": 'u', "universal": 'u', "date": 'd', "reference": 'r', "set": 's', "rfc-email": 'R', "rfc-2822": 'R', "iso-8601": 'I',
	})
	if !ok {
		return exitFailure
	}
	now := time.Now()
	loc := c.zone()
	if o.has('u') {
		loc = time.UTC
	}
	now = now.In(loc)
	if ref, ok := o.get('r'); ok {
		st, err := os.Stat(c.path(ref))
		if err != nil {
			return c.fail(ref, err)
		}
		now = st.ModTime().In(loc)
	}
	for _, flag := range []rune{'d', 's'} {
		text, ok := o.get(flag)
		if !ok {
			continue
		}
		t, err := parseDate(text, now, false)
		if err != nil {
			return c.errorf("invalid date '%s'", text)
		}
		now = t.In(loc)
		if flag == 's' {
			if err := setClock(now); err != nil {
				return c.errorf("cannot set date: %s", reason(err))
			}
		}
	}
	format := "%a %b %e %H:%M:%S %Z %Y"
	iso, hasISO := o.get('I')
	switch {
	case o.has('R'):
		format = "%a, %d %b %Y %H:%M:%S %z"
	case hasISO:
		var ok bool
		if format, ok = isoFormat(iso); !ok {
			return c.errorf("invalid argument '%s' for '-I'", iso)
		}
	}
	for _, arg := range args {
		if !strings.HasPrefix(arg, "+") {
			return c.errorf("invalid date '%s'", arg)
		}
		format = arg[1:]
	}
	c.out.WriteString(strftime(format, now) + "\n")
	return exitOK
}

func isoFormat(kind string) (string, bool) {
	switch kind {
	case "", "date":
		return "%Y-%m-%d", true
	case "hours":
		return "%Y-%m-%dT%H%:z", true
	case "minutes":
		return "%Y-%m-%dT%H:%M%:z", true
	case "seconds":
		return "%Y-%m-%dT%H:%M:%S%:z", true
	case "ns":
		return "%Y-%m-%dT%H:%M:%S,%N%:z", true
	}
	return "", false
}

// zone is the time zone that TZ of the command's environment names.
func (c *call) zone() *time.Location {
	name := strings.TrimPrefix(c.getenv("TZ"), ":")
	if name == "" {
		return time.Local
	}
	if loc, err := time.LoadLocation(name); err == nil {
		return loc
	}
	return time.UTC
}

// strftime formats a time like C's strftime in the C locale, with GNU's
// padding flags '-', '_' and '0'.
func strftime(format string, t time.Time) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		flag := byte(0)
		if i+1 < len(format) && strings.IndexByte("-_0^#", format[i]) >= 0 {
			flag = format[i]
			i++
		}
		if strings.HasPrefix(format[i:], ":z") {
			b.WriteString(t.Format("-07:00"))
			i++
			continue
		}
		if strings.HasPrefix(format[i:], "3N") {
			fmt.Fprintf(&b, "%03d", t.Nanosecond()/1e6)
			i++
			continue
		}
		text, ok := strftimeField(format[i], t)
		if !ok {
			b.WriteString("%" + format[i:i+1])
			continue
		}
		switch flag {
		case '-':
			if trimmed := strings.TrimLeft(text, "0 "); trimmed != "" {
				text = trimmed
			} else {
				text = "0"
			}
		case '_':
			trimmed := strings.TrimLeft(text[:len(text)-1], "0")
			text = strings.Repeat(" ", len(text)-1-len(trimmed)) + trimmed + text[len(text)-1:]
		case '0':
			text = strings.ReplaceAll(text, " ", "0")
		case '^':
			text = strings.ToUpper(text)
		}
		b.WriteString(text)
	}
	return b.String()
}

func strftimeField(verb byte, t time.Time) (string, bool) {
	if layout, ok := strftimeLayout(verb); ok {
		return t.Format(layout), true
	}
	isoYear, isoWeek := t.ISOWeek()
	switch verb {
	case '%':
		return "%", true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	case 's':
		return strconv.FormatInt(t.Unix(), 10), true
	case 'N':
		return fmt.Sprintf("%09d", t.Nanosecond()), true
	case 'C':
		return fmt.Sprintf("%02d", t.Year()/100), true
	case 'u':
		return strconv.Itoa((int(t.Weekday())+6)%7 + 1), true
	case 'w':
		return strconv.Itoa(int(t.Weekday())), true
	case 'G':
		return strconv.Itoa(isoYear), true
	case 'g':
		return fmt.Sprintf("%02d", isoYear%100), true
	case 'V':
		return fmt.Sprintf("%02d", isoWeek), true
	case 'U':
		return fmt.Sprintf("%02d", (t.YearDay()+6-int(t.Weekday()))/7), true
	case 'W':
		return fmt.Sprintf("%02d", (t.YearDay()+6-(int(t.Weekday())+6)%7)/7), true
	case 'k':
		return fmt.Sprintf("%2d", t.Hour()), true
	case 'l':
		return fmt.Sprintf("%2d", (t.Hour()+11)%12+1), true
	case 'q':
		return strconv.Itoa((int(t.Month()) + 2) / 3), true
	}
	return "", false
}

// strftimeLayout gives Go's layout for the fields that have one.
func strftimeLayout(verb byte) (string, bool) {
	switch verb {
	case 'Y':
		return "2006", true
	case 'y':
		return "06", true
	case 'm':
		return "01", true
	case 'd':
		return "02", true
	case 'e':
		return "_2", true
	case 'H':
		return "15", true
	case 'I':
		return "03", true
	case 'M':
		return "04", true
	case 'S':
		return "05", true
	case 'p':
		return "PM", true
	case 'P':
		return "pm", true
	case 'j':
		return "002", true
	case 'a':
		return "Mon", true
	case 'A':
		return "Monday", true
	case 'b', 'h':
		return "Jan", true
	case 'B':
		return "January", true
	case 'Z':
		return "MST", true
	case 'z':
		return "-0700", true
	case 'F':
		return "2006-01-02", true
	case 'T', 'X':
		return "15:04:05", true
	case 'R':
		return "15:04", true
	case 'D', 'x':
		return "01/02/06", true
	case 'r':
		return "03:04:05 PM", true
	case 'c':
		return "Mon Jan _2 15:04:05 2006", true
	}
	return "", false
}

var errDate = errors.New("not a date")

// parseDate reads what date -d and touch -d take: @seconds, ISO 8601 and
// RFC 2822 forms, "now", "today", "yesterday", "tomorrow", "N units ago". stamp
// selects touch -t's [[CC]YY]MMDDhhmm[.ss].
func parseDate(s string, now time.Time, stamp bool) (time.Time, error) {
	s = strings.TrimSpace(s)
	if stamp {
		return parseStamp(s, now)
	}
	if strings.HasPrefix(s, "@") {
		whole, frac, _ := strings.Cut(s[1:], ".")
		sec, err := strconv.ParseInt(whole, 10, 50)
		if err != nil {
			return time.Time{}, errDate
		}
		ns, _ := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
		return time.Unix(sec, ns), nil
	}
	if t, ok := absoluteDate(s, now); ok {
		return t, nil
	}
	// "2024-03-01 -1 day": a date, and what to add.
	for i := strings.LastIndexByte(s, ' '); i > 0; i = strings.LastIndexByte(s[:i], ' ') {
		if t, ok := absoluteDate(s[:i], now); ok {
			return parseRelative(s[i:], t)
		}
	}
	return parseRelative(s, now)
}

// absoluteDate reads the forms that name a day or a time of day.
func absoluteDate(s string, now time.Time) (time.Time, bool) {
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05.999999999 -0700", "2006-01-02 15:04:05 -0700",
		"2006-01-02 15:04:05 MST", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02", "20060102", time.RFC1123Z, time.RFC1123,
		"Mon Jan _2 15:04:05 MST 2006", "Mon Jan _2 15:04:05 2006", "2 Jan 2006", "Jan 2 2006", "2 Jan 2006 15:04:05", "2006/01/02", "2006/01/02 15:04:05",
	} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, true
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location()), true
		}
	}
	return time.Time{}, false
}

func parseRelative(s string, now time.Time) (time.Time, error) {
	words := strings.Fields(strings.ToLower(s))
	if len(words) == 0 {
		y, m, d := now.Date()
		return time.Date(y, m, d, 0, 0, 0, 0, now.Location()), nil
	}
	t := now
	for len(words) > 0 {
		switch words[0] {
		case "now", "today":
			words = words[1:]
			continue
		case "yesterday":
			t, words = t.AddDate(0, 0, -1), words[1:]
			continue
		case "tomorrow":
			t, words = t.AddDate(0, 0, 1), words[1:]
			continue
		case "next", "last":
			if len(words) < 2 {
				return t, errDate
			}
			n := map[string]string{"next": "1", "last": "-1"}[words[0]]
			words = append([]string{n}, words[1:]...)
		}
		n, err := strconv.ParseInt(words[0], 10, 32)
		if err != nil || len(words) < 2 {
			return t, errDate
		}
		unit := strings.TrimSuffix(words[1], "s")
		words = words[2:]
		if len(words) > 0 && words[0] == "ago" {
			n, words = -n, words[1:]
		}
		switch unit {
		case "second", "sec":
			t = t.Add(time.Duration(n) * time.Second)
		case "minute", "min":
			t = t.Add(time.Duration(n) * time.Minute)
		case "hour":
			t = t.Add(time.Duration(n) * time.Hour)
		case "day":
			t = t.AddDate(0, 0, int(n))
		case "week":
			t = t.AddDate(0, 0, 7*int(n))
		case "month":
			t = t.AddDate(0, int(n), 0)
		case "year":
			t = t.AddDate(int(n), 0, 0)
		default:
			return t, errDate
		}
	}
	return t, nil
}

func parseStamp(s string, now time.Time) (time.Time, error) {
	layout := map[int]string{8: "01021504", 10: "0601021504", 12: "200601021504"}
	digits, sec, hasSec := strings.Cut(s, ".")
	l, ok := layout[len(digits)]
	if !ok || (hasSec && len(sec) != 2) {
		return time.Time{}, errDate
	}
	if hasSec {
		l, digits = l+"05", digits+sec
	}
	t, err := time.ParseInLocation(l, digits, now.Location())
	if err != nil {
		return time.Time{}, errDate
	}
	if t.Year() == 0 {
		t = t.AddDate(now.Year(), 0, 0)
	}
	return t, nil
}
