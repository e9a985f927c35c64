package userland

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
)

func netCommands() []command {
	return []command{
		{name: "wget", usage: "[-qScN] [-O FILE] [-P DIR] [-T SECONDS] [-t TRIES] [-U AGENT] [--header H] [--post-data D] [--spider] [--no-check-certificate] URL...", run: runWget},
		{name: "nc", usage: "[-lukzvnN46] [-p PORT] [-s ADDR] [-w SECONDS] [-U] [HOST] PORT", run: runNC},
		{name: "nslookup", usage: "NAME [SERVER]", run: runNslookup},
	}
}

// wgetter is one run of wget.
type wgetter struct {
	c        *call
	o        options
	client   *http.Client
	header   http.Header
	method   string
	body     string
	tries    int
	combined *os.File // -O FILE, shared by all URLs
}

func runWget(c *call) int {
	o, urls, ok := c.parse("qO:P:T:t:U:ScN\x01:\x02:\x03:\x04\x05\x06:\x07:4nvbo:", longOptions{
		"quiet": 'q', "output-document": 'O', "directory-prefix": 'P', "timeout": 'T', "tries": 't', "user-agent": 'U', "server-response": 'S',
		"continue": 'c', "header": '\x01', "post-data": '\x02', "post-file": '\x03', "spider": '\x04', "no-check-certificate": '\x05',
		"method": '\x06', "body-data": '\x02', "max-redirect": '\x07', "no-verbose": 'q',
	})
	if !ok {
		return exitFailure
	}
	if len(urls) == 0 {
		return c.usageError("missing URL")
	}
	w := &wgetter{c: c, o: o, header: http.Header{"User-Agent": {"Wget"}}, method: http.MethodGet, tries: 3}
	if err := w.configure(); err != nil {
		return c.errorf("%s", err)
	}
	if name, ok := o.get('O'); ok && name != "-" && !o.has('\x04') {
		flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		if o.has('c') {
			flags = os.O_WRONLY | os.O_CREATE
		}
		f, err := os.OpenFile(c.path(name), flags, 0o666)
		if err != nil {
			return c.fail(name, err)
		}
		defer f.Close()
		w.combined = f
	}
	status := exitOK
	for _, raw := range urls {
		if s := w.fetch(raw); s != exitOK {
			status = s
		}
	}
	return status
}

func (w *wgetter) configure() error {
	timeout := 60 * time.Second
	redirects := 20
	for _, opt := range w.o {
		switch opt.flag {
		case 'U':
			w.header.Set("User-Agent", opt.value)
		case '\x01':
			name, value, ok := strings.Cut(opt.value, ":")
			if !ok {
				return fmt.Errorf("invalid header '%s'", opt.value)
			}
			w.header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		case '\x02', '\x03':
			w.body = opt.value
			if opt.flag == '\x03' {
				data, err := os.ReadFile(w.c.path(opt.value))
				if err != nil {
					return fmt.Errorf("%s: %s", opt.value, reason(err))
				}
				w.body = string(data)
			}
			if w.method == http.MethodGet {
				w.method = http.MethodPost
			}
			if w.header.Get("Content-Type") == "" {
				w.header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
		case '\x04':
			w.method = http.MethodHead
		case '\x06':
			w.method = strings.ToUpper(opt.value)
		case '\x07':
			redirects = atoi(opt.value)
		case 'T':
			d, ok := parseSleep(opt.value)
			if !ok {
				return fmt.Errorf("invalid timeout '%s'", opt.value)
			}
			timeout = d
		case 't':
			if w.tries = atoi(opt.value); w.tries <= 0 {
				w.tries = 20
			}
		}
	}
	dialer := &net.Dialer{Timeout: timeout}
	transport := &http.Transport{
		Proxy:                 w.proxy,
		DialContext:           dialer.DialContext,
		TLSHandshakeTimeout:   timeout,
		ResponseHeaderTimeout: timeout,
		DisableCompression:    true,
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: w.o.has('\x05')}, //nolint:gosec // the user asked for it
	}
	w.client = &http.Client{Transport: transport, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > redirects {
			return fmt.Errorf("%d redirections exceeded", redirects)
		}
		return nil
	}}
	return nil
}

// proxy takes the command's own environment, not the process's.
func (w *wgetter) proxy(r *http.Request) (*url.URL, error) {
	for entry := range strings.SplitSeq(w.c.getenv("no_proxy"), ",") {
		entry = strings.TrimPrefix(strings.TrimSpace(entry), ".")
		host := r.URL.Hostname()
		if entry == "*" || (entry != "" && (host == entry || strings.HasSuffix(host, "."+entry))) {
			return nil, nil
		}
	}
	value := w.c.getenv(r.URL.Scheme + "_proxy")
	if value == "" {
		return nil, nil
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	return url.Parse(value)
}

// Statuses of GNU wget.
const (
	wgetIO     = 3
	wgetNet    = 4
	wgetTLS    = 5
	wgetServer = 8
)

func (w *wgetter) say(format string, a ...any) {
	if !w.o.has('q') {
		fmt.Fprintf(w.c.err, format+"\n", a...)
	}
}

func (w *wgetter) fetch(raw string) int {
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return w.c.errorf("%s: not a http or https URL", raw)
	}
	for try := 1; ; try++ {
		retry, status, err := w.once(u)
		if err == nil {
			return status
		}
		if !retry || try >= w.tries || w.c.ctx.Err() != nil {
			if w.c.ctx.Err() == nil {
				w.c.errorf("%s: %s", raw, wgetReason(err))
			}
			return status
		}
		w.say("wget: %s; trying again", wgetReason(err))
		if !w.c.pause(time.Second) {
			return status
		}
	}
}

// wgetReason is the innermost cause: the outer layers repeat the URL.
func wgetReason(err error) string {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	var oe *net.OpError
	if errors.As(err, &oe) && oe.Addr != nil {
		return "can't connect to " + oe.Addr.String() + ": " + reason(oe.Err)
	}
	if de, ok := errors.AsType[*net.DNSError](err); ok {
		return "unable to resolve host address '" + de.Name + "'"
	}
	return err.Error()
}

// once makes one request; retry says that another try makes sense.
func (w *wgetter) once(u *url.URL) (retry bool, status int, err error) {
	name := w.fileName(u)
	offset := int64(0)
	if w.o.has('c') && w.method == http.MethodGet {
		if st, err := os.Stat(w.c.path(name)); err == nil && name != "-" {
			offset = st.Size()
		}
	}
	ctx, cancel := context.WithCancel(w.c.ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, w.method, u.String(), strings.NewReader(w.body))
	if err != nil {
		return false, exitFailure, err
	}
	if w.body == "" {
		req.Body = nil
	}
	req.Header = w.header.Clone()
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	if u.User != nil {
		password, _ := u.User.Password()
		req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	res, err := w.client.Do(req)
	if err != nil {
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			return false, wgetTLS, err
		}
		return true, wgetNet, err
	}
	defer res.Body.Close()
	if w.o.has('S') {
		fmt.Fprintf(w.c.err, "  %s %s\n", res.Proto, res.Status)
		for k, v := range res.Header {
			fmt.Fprintf(w.c.err, "  %s: %s\n", k, strings.Join(v, ", "))
		}
	}
	switch {
	case res.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0:
		w.say("wget: %s is complete already", name)
		return false, exitOK, nil
	case res.StatusCode >= 400:
		return res.StatusCode >= 500 && res.StatusCode != 501, wgetServer, fmt.Errorf("server returned error: %s %s", res.Proto, res.Status)
	case w.o.has('\x04'):
		w.say("remote file exists")
		return false, exitOK, nil
	}
	if res.StatusCode != http.StatusPartialContent {
		offset = 0
	}
	return w.save(res, name, offset)
}

func (w *wgetter) fileName(u *url.URL) string {
	if name, ok := w.o.get('O'); ok {
		return name
	}
	name := path.Base(u.Path)
	if u.Path == "" || strings.HasSuffix(u.Path, "/") || name == "." || name == ".." || strings.Contains(name, "/") {
		name = "index.html"
	}
	if u.RawQuery != "" {
		name += "?" + strings.ReplaceAll(u.RawQuery, "/", "%2F")
	}
	if dir, ok := w.o.get('P'); ok {
		name = strings.TrimSuffix(dir, "/") + "/" + name
	}
	return name
}

func (w *wgetter) save(res *http.Response, name string, offset int64) (retry bool, status int, err error) {
	var out io.Writer
	switch {
	case name == "-":
		out = w.c.out
	case w.combined != nil:
		if w.o.has('c') {
			if offset == 0 {
				if err := w.combined.Truncate(0); err != nil {
					return false, wgetIO, err
				}
			}
			if _, err := w.combined.Seek(offset, io.SeekStart); err != nil {
				return false, wgetIO, err
			}
		}
		out = w.combined
	default:
		flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		if offset > 0 {
			flags = os.O_WRONLY | os.O_APPEND
		} else if !w.o.has('c', 'N') {
			if name, err = w.freeName(name); err != nil {
				return false, wgetIO, err
			}
		}
		f, err := os.OpenFile(w.c.path(name), flags, 0o666)
		if err != nil {
			return false, wgetIO, fmt.Errorf("%s: %s", name, reason(err))
		}
		defer f.Close()
		out = f
	}
	n, err := copyBuffer(w.c.ctx, out, res.Body)
	switch {
	case err != nil && w.c.out.err != nil:
		return false, wgetIO, nil // reported by finish
	case err != nil:
		return false, wgetIO, err
	case res.ContentLength >= 0 && n != res.ContentLength:
		return false, wgetNet, fmt.Errorf("connection closed after %d of %d bytes", n, res.ContentLength)
	}
	w.say("'%s' saved [%d]", name, n+offset)
	return false, exitOK, nil
}

// freeName is name, or name.1, name.2, ... when that exists.
func (w *wgetter) freeName(name string) (string, error) {
	candidate := name
	for i := 1; i < 10000; i++ {
		if _, err := os.Lstat(w.c.path(candidate)); errors.Is(err, os.ErrNotExist) {
			return candidate, nil
		}
		candidate = fmt.Sprintf("%s.%d", name, i)
	}
	return "", fmt.Errorf("%s: too many files of that name", name)
}
