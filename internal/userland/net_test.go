package userland

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWget(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/file.txt", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "file.txt", time.Time{}, strings.NewReader("0123456789"))
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/file.txt", http.StatusFound) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		user, password, _ := r.BasicAuth()
		fmt.Fprintf(w, "%s %s %s %s %s:%s", r.Method, r.UserAgent(), r.Header.Get("X-Test"), body, user, password)
	})
	mux.HandleFunc("/short", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "short")
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	tlsServer := httptest.NewTLSServer(mux)
	defer tlsServer.Close()
	url := server.URL
	for _, test := range []struct {
		name   string
		script string
		want   result
	}{
		{"to a file", "wget -q $U/file.txt && cat file.txt", result{out: "0123456789"}},
		{"to standard output", "wget -q -O - $U/file.txt | tail -c 2", result{out: "89"}},
		{"joined option", "wget -qO- $U/file.txt", result{out: "0123456789"}},
		{"to a named file in a directory", "mkdir d; wget -q -O d/x $U/file.txt; wget -q -P d $U/file.txt; cat d/x d/file.txt", result{out: "01234567890123456789"}},
		{"says what it saved", "wget $U/file.txt", result{err: "'file.txt' saved [10]\n"}},
		{"does not overwrite", "wget -q $U/file.txt $U/file.txt; ls", result{out: "file.txt\nfile.txt.1\n"}},
		{"redirect", "wget -qO- $U/moved", result{out: "0123456789"}},
		{"continue", "printf 01234 >file.txt; wget -qc $U/file.txt; cat file.txt", result{out: "0123456789"}},
		{"continue what is complete", "printf 0123456789 >file.txt; wget -qc $U/file.txt; cat file.txt", result{out: "0123456789"}},
		{"post with headers", "wget -qO- -U agent --header 'X-Test: yes' --post-data body $U/echo", result{out: "POST agent yes body :"}},
		{"credentials in the address", "wget -qO- ${U%//*}//me:secret@${U#*//}/echo", result{out: "GET Wget   me:secret"}},
		{"error status", "wget -q $U/none", result{err: "wget: $U/none: server returned error: HTTP/1.1 404 Not Found\n", code: 8}},
		{"spider", "wget -q --spider $U/file.txt && ls", result{}},
		{"cut short", "wget -q -O f $U/short", result{err: "wget: $U/short: unexpected EOF\n", code: 3}},
		{"untrusted certificate", "wget -q -t 1 -O- $T/file.txt 2>/dev/null", result{code: 5}},
		{"unchecked certificate", "wget -q --no-check-certificate -O- $T/file.txt", result{out: "0123456789"}},
		{"nothing listens", "wget -q -t 1 -O- http://127.0.0.1:1/", result{err: "wget: http://127.0.0.1:1/: can't connect to 127.0.0.1:1: Connection refused\n", code: 4}},
		{"proxy", "http_proxy=${U#*//} wget -qO- http://nowhere.invalid/file.txt", result{out: "0123456789"}},
		{"not http", "wget ftp://x/", result{err: "wget: ftp://x/: not a http or https URL\n", code: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := run(t, t.TempDir(), "", "sh", "-c", "U="+url+" T="+tlsServer.URL+"; "+test.script)
			test.want.err = strings.ReplaceAll(test.want.err, "$U", url)
			if got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestNetcatConnects(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				data, _ := io.ReadAll(conn)
				fmt.Fprintf(conn, "got %s", data)
			}()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	must(t, err)
	if got := run(t, "/", "hello", "nc", "127.0.0.1", port); got != (result{out: "got hello"}) {
		t.Errorf("%+v", got)
	}
	if got := run(t, "/", "", "nc", "-z", "127.0.0.1", port); got != (result{}) {
		t.Errorf("-z: %+v", got)
	}
	if got := run(t, "/", "", "nc", "-zv", "127.0.0.1", "1"); got.code != 1 || got.err != "nc: connect to 127.0.0.1 port 1 (tcp) failed: Connection refused\n" {
		t.Errorf("closed port: %+v", got)
	}
}

func TestNetcatListens(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			dir := t.TempDir()
			argv := []string{"nc", "-lv", "127.0.0.1", "0"}
			if network == "unix" {
				argv = []string{"nc", "-lvU", "s"}
			}
			said, out := make(chan string, 10), make(chan string, 10)
			done := make(chan int, 1)
			go func() {
				done <- Run(t.Context(), argv, dir, nil, Stdio{In: strings.NewReader("from nc"), Out: chanWriter(out), Err: chanWriter(said)})
			}()
			address := strings.TrimSpace(strings.TrimPrefix(<-said, "Listening on "))
			conn, err := net.Dial(network, address)
			must(t, err)
			defer conn.Close()
			fmt.Fprint(conn, "to nc")
			await(t, out, "to nc")
			got, err := io.ReadAll(conn) // to the half-close at the end of its input
			if err != nil || string(got) != "from nc" {
				t.Errorf("got %q, %v", got, err)
			}
			conn.Close()
			if code := <-done; code != 0 {
				t.Errorf("status %d", code)
			}
		})
	}
}

func TestNetcatUDP(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer pc.Close()
	_, port, err := net.SplitHostPort(pc.LocalAddr().String())
	must(t, err)
	out := make(chan string, 1)
	ctx, cancel := contextWithCancel(t)
	go Run(ctx, []string{"nc", "-u", "127.0.0.1", port}, "/", nil, Stdio{In: strings.NewReader("ping"), Out: chanWriter(out)})
	buf := make([]byte, 100)
	n, from, err := pc.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "ping" {
		t.Fatalf("%q %v", buf[:n], err)
	}
	_, err = pc.WriteTo([]byte("pong"), from)
	must(t, err)
	await(t, out, "pong")
	cancel()
}

func TestNslookupReadsTheHostsFile(t *testing.T) {
	if _, err := os.Stat("/etc/hosts"); err != nil {
		t.Skip("missing: /etc/hosts")
	}
	got := run(t, filepath.Dir("/"), "", "nslookup", "localhost")
	if got.code != 0 || !strings.Contains(got.out, "Name:\tlocalhost\nAddress: ") {
		t.Errorf("%+v", got)
	}
}
