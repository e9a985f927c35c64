package userland

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// oracleFiles are what the command lines below work on.
func oracleFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"a.txt":      "apple 3\nBanana 10\ncherry 2\napple 3\n\ndate 100\n",
		"b.txt":      "one\ttwo\tthree\nfour\tfive\n\tsix\nno tabs here\n",
		"noeol":      "first\nsecond",
		"empty":      "",
		"nums":       "10\n9\n-3\n2.5\n1e3\n007\n\nabc\n2.50\n",
		"csv":        "id,name,size\n3,carl,10K\n1,anna,2M\n2,bob,1G\n10,dora,512\n",
		"words":      "the quick brown fox\njumps over\nthe lazy dog\nThe End\n",
		"code.c":     "#include <stdio.h>\n\nint main(void) {\n\tprintf(\"hi [%d]\\n\", 1);\n\treturn 0;\n}\n",
		"odd name":   "with space\n",
		"bin":        "a\x00b\x01\x02\xff\xfe\n\x7fz",
		"sub/x.txt":  "x1\nx2\n",
		"sub/y.log":  "log line apple\n",
		"sub/d/deep": "deep apple\n",
		"ver":        "1.10\n1.9\n1.2.3\n1.2.10\nv2\nv10\n",
		"long":       strings.Repeat("0123456789", 20) + "\nshort\n",
		"dup":        "a\na\nb\nB\nc\nc\nc\na\n",
		"f1":         "1\n2\n3\n",
		"f2":         "x\ny\n",
	} {
		write(t, filepath.Join(dir, name), content)
	}
	if err := os.Symlink("a.txt", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestLikeTheRealTools compares standard output and status with the system's
// own commands.
func TestLikeTheRealTools(t *testing.T) {
	shared := oracleFiles(t)
	for _, line := range oracleLines {
		name := strings.Fields(strings.ReplaceAll(line, "<", " "))[0]
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(name); err != nil {
				t.Skipf("missing: %s", name)
			}
			ours, theirs := shared, shared
			if mayWrite(line) {
				ours, theirs = oracleFiles(t), oracleFiles(t)
			}
			want := hostShell(t, theirs, line)
			got := run(t, ours, "", "sh", "-c", line)
			if diff := cmp.Diff(want.out, got.out); diff != "" {
				t.Errorf("output (-real +ours):\n%s\nreal stderr: %s\nour stderr: %s", diff, want.err, got.err)
			}
			if want.code != got.code {
				t.Errorf("status %d, the real one %d\nour stderr: %s", got.code, want.code, got.err)
			}
			if (want.err == "") != (got.err == "") {
				t.Errorf("standard error %q, the real one %q", got.err, want.err)
			}
		})
	}
}

// mayWrite reports whether a line may change its files.
func mayWrite(line string) bool {
	name, _, _ := strings.Cut(line, " ")
	switch name {
	case "cat", "head", "wc", "grep", "uniq", "cut", "tr", "seq", "paste", "base64", "basename", "dirname", "echo", "env", "expr", "ls", "stat", "od", "uname", "id":
		return strings.ContainsAny(line, ">;")
	case "sed", "sort", "tail", "find", "sha256sum":
		return strings.Contains(line, ">") || strings.Contains(line, "rm ") || strings.Contains(line, "-delete")
	}
	return true
}

// hostShell runs a line with the system's tools.
func hostShell(t *testing.T, dir, line string) result {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("missing: bash")
	}
	cmd := exec.Command(bash, "-c", line)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=" + dir}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

var oracleLines = []string{
	"cat a.txt noeol", "cat -n a.txt", "cat -b a.txt", "cat -A bin b.txt", "cat -s a.txt a.txt", "cat -E noeol", "cat nosuch a.txt", "cat - <f1", "cat sub", "cat -vT bin",
	"head -n 2 a.txt", "head -2 a.txt", "head -c 5 a.txt", "head -n -2 a.txt", "head -c -4 noeol", "head -n 1 a.txt b.txt", "head -q -n 1 a.txt b.txt", "head -v -n1 f1", "head -n 0 a.txt", "head empty", "head nosuch", "head -c 1k long", "head -n x f1", "seq 100000 | head -n 3",
	"tail -n 2 a.txt", "tail -2 a.txt", "tail -c 4 noeol", "tail -n +3 a.txt", "tail -c +4 noeol", "tail -n 1 f1 f2", "tail noeol", "tail -n 0 a.txt", "cat a.txt | tail -n 2", "cat noeol | tail -n 1", "cat noeol | tail -n +2", "cat a.txt | tail -c 3", "seq 30000 | tail -n 2", "tail -q -n 1 f1 f2", "tail nosuch", "tail -n 3 empty", "seq 100000 >big; tail -n 30000 big | head -n 1; rm big",
	"wc a.txt", "wc -l a.txt b.txt", "wc <a.txt", "wc -c <a.txt", "wc -w words", "wc -m words", "wc -L long words", "wc -lc noeol", "wc nosuch a.txt", "cat a.txt | wc", "cat a.txt | wc -l", "wc empty", "wc -lwmcL a.txt", "wc - <f1",
	"grep apple a.txt", "grep -v apple a.txt", "grep -n a a.txt", "grep -c apple a.txt b.txt", "grep -i banana a.txt", "grep -E '^(apple|date)' a.txt", "grep -F '[%d]' code.c", "grep '[%d]' code.c", "grep -o 'a[a-z]*' a.txt", "grep -w the words", "grep -iw the words", "grep -x second noeol", "grep -q apple a.txt", "grep -q zzz a.txt", "grep zzz a.txt", "grep -l apple a.txt b.txt", "grep -L apple a.txt b.txt", "grep apple nosuch a.txt", "grep -s apple nosuch a.txt", "grep -r apple sub | sort", "grep -rn apple sub | sort", "grep -rl apple . | sort", "grep -h apple a.txt sub/y.log", "grep -H apple a.txt", "grep -A1 cherry a.txt", "grep -B1 cherry a.txt", "grep -C 1 -n cherry a.txt", "grep -A1 apple a.txt", "grep -m 1 apple a.txt", "grep -e apple -e date a.txt", "grep -f f1 nums", "grep '' empty", "grep '' f1", "grep 'a\\{1,2\\}p' a.txt", "grep -E 'p{2}' a.txt", "grep 'x*' f1", "grep '\\(an\\)' a.txt", "grep 'a\\|b' dup", "grep '^$' a.txt", "grep -c '' noeol", "grep a bin", "grep -a z bin | od -c", "grep -c b bin", "grep -E 'a+' dup", "grep 'a+' dup", "grep '*a' dup", "grep '[[:upper:]]' a.txt", "grep '[]a]' dup", "grep '[^a-z]' dup", "grep -o . f1", "grep -on 'e' words", "grep -ob x f2 >/dev/null; echo a.b | grep 'a\\.b'", "echo 'a\\b' | grep '[\\]'", "echo foo_bar foo | grep -ow foo", "grep '\\<over\\>' words", "echo abab | grep -E '^(ab)*$'", "grep -r --include='*.txt' x . | sort", "grep -vc a dup", "grep -E '(' f1", "grep -nA1 -B1 2 f1", "egrep 'a|b' dup", "fgrep . ver", "grep -z one b.txt | tr '\\0' '@'",
	"sed s/apple/pear/ a.txt", "sed -n 2p a.txt", "sed 2d a.txt", "sed -n '/cherry/,/date/p' a.txt", "sed 's/a/A/g' words", "sed 's/\\(.*\\) \\(.*\\)/\\2 \\1/' words", "sed -E 's/(.*) (.*)/\\2-\\1/' words", "sed -n '$p' a.txt", "sed '$d' a.txt", "sed 's/o/0/2' words", "sed -n 's/the/THE/p' words", "sed 's/THE/x/I' words", "sed -e 1d -e 's/e/E/' f2 words", "sed '1!d' f1", "sed '2q' f1", "sed -n '1~2p' f1", "sed '/2/a\\\nappended' f1", "sed '/2/i inserted' f1", "sed '2c changed' f1", "sed y/abc/xyz/ dup", "sed = f1", "sed -n '/2/{=;p;}' f1", "sed 'N;s/\\n/+/' f1", "sed ':a;N;$!ba;s/\\n/,/g' f1", "sed G f1", "sed -n '1!G;h;$p' f1", "sed 's|/|_|g;s,a,b,' words", "sed 's/.*/[&]/' f1", "sed 's/.*/\\U&/' words", "sed 's/\\b./\\u&/g' words", "sed 0,/a/d dup", "sed '2,+1d' dup", "sed '/b/,$d' dup", "sed 's/x*/-/g' f2", "sed -s -n '$p' f1 f2", "sed p noeol", "sed -n l b.txt", "sed '/a/!s/$/!/' dup", "sed 's/a/\\n/' dup", "sed 's/[/]/x/' words", "sed '2r f2' f1", "sed nosuch-command f1", "sed p nosuch f1", "sed 's/\\t/ /g' b.txt", "sed '2,1p' f1", "sed -n '2{p;q}' f1", "sed '/1/b end; s/^/x/; :end' f1", "sed 's/a/b/;ta;s/$/ no/;:a' dup", "sed 1d\\;2d f1", "sed -n 'x;p' f1", "sed '$!N;P;D' dup", "sed '2,3!d' f1", "sed 's/a\\|b/X/g' dup", "sed 's/a/&&/3g' long", "sed D f1", "echo aXbXc | sed 's/X/\\\n/g'", "sed '1~3d' f1", "sed -E 's/^.{2}//' words", "sed 's/[^,]*,//' csv", "sed -n '/a/='  dup", "sed '2Q5' f1", "sed q7 f1", "printf 'a\\nb\\n' | sed 'a\\  x'", "sed '/^$/d' a.txt", "sed --expression='s/1/2/' f1",
	"sort a.txt", "sort -r a.txt", "sort -n nums", "sort -u dup", "sort -f dup", "sort -t, -k2 csv", "sort -t, -k1,1n csv", "sort -k2n a.txt", "sort -k2,2nr -k1,1 a.txt", "sort -V ver", "sort -t, -k3h csv", "sort -c a.txt", "sort -c f1", "sort -s -k1,1 a.txt", "sort -fu dup", "sort -nu nums", "sort -b -k2 words", "sort -t, -k2.2,2.3 csv", "sort nosuch", "sort noeol a.txt", "sort -rn nums", "sort -g nums", "sort -d words", "sort -k 1.3 words", "sort -o sorted f2 && cat sorted; rm -f sorted", "sort -t '' f1", "sort -k0 f1",
	"uniq dup", "uniq -c dup", "uniq -d dup", "uniq -u dup", "uniq -i dup", "sort dup | uniq -c | sort -rn", "uniq -f 1 a.txt", "uniq -s 1 dup", "uniq -w 1 words", "uniq noeol", "uniq nosuch",
	"cut -f2 b.txt", "cut -f1,3 b.txt", "cut -d, -f2- csv", "cut -c1-3 words", "cut -b2 words", "cut -s -f2 b.txt", "cut -d ' ' -f1 words", "cut -f-2 b.txt", "cut --complement -d, -f2 csv", "cut -d, -f1,3 --output-delimiter=: csv", "cut words", "cut -f0 words", "cut -c 3-1 words",
	"tr a-z A-Z <words", "tr -d aeiou <words", "tr -s 'a-z' <long", "tr -cd '[:alpha:]' <words", "tr '[:lower:]' '[:upper:]' <words", "tr ' ' '\\n' <words", "tr -s ' \\n' '\\n' <words", "tr -c 'a-z' '\\n' <words", "tr abc x <dup", "tr a-c '[x*]' <dup", "tr -d '\\000' <bin | od -c", "tr 'a-' 'x_' <dup", "tr z-a b <dup", "tr", "tr a <dup", "tr -t abc x <dup", "tr '\\141' Z <dup",
	"seq 5", "seq 2 5", "seq 1 2 9", "seq 5 -1 1", "seq -w 8 11", "seq -s, 3", "seq 0.5 0.5 2", "seq 3 1", "seq -5 -3", "seq 1 0 2", "seq x", "seq -f '%03g' 3", "seq 1 .1 1.3",
	"paste f1 f2", "paste -d, f1 f2", "paste -s f1", "paste -s -d+ f1", "paste - - <a.txt", "paste -d '\\n' f1 f2",
	"tac f1", "tac noeol", "rev words", "cmp f1 f1", "cmp f1 f2", "cmp -s f1 f2", "cmp f1 nosuch", "cmp empty f1",
	"base64 bin", "base64 -w 10 long", "base64 -w0 words", "base64 words | base64 -d", "echo '@@' | base64 -d", "base64 empty",
	"basename /a/b/c.txt", "basename /a/b/c.txt .txt", "basename a/", "basename /", "basename -a x/y z", "basename -s .c a.c b.c", "basename ''", "basename .txt .txt", "basename", "dirname /a/b/c", "dirname a", "dirname /", "dirname /a", "dirname a/b/ c//d//", "dirname",
	"sha256sum a.txt bin", "sha256sum <a.txt", "md5sum a.txt", "sha1sum a.txt", "sha512sum a.txt", "sha256sum nosuch a.txt", "sha256sum -b a.txt", "sha256sum --tag a.txt", "sha256sum a.txt f1 >s; sha256sum -c s; rm s", "sha256sum a.txt >s; echo x >>s; sha256sum -c s; rm s", "sed 's/^./f/;s/^f/0/' /dev/null; sha256sum a.txt | sed s/a.txt/f1/ >s2; sha256sum -c s2; rm s2", "sha256sum -c f1", "sha256sum f1 | sed s/f1/nosuch/ >s3; sha256sum -c s3; rm s3", "sha256sum --status -c f1",
	"echo -n x", "echo -e 'a\\tb\\n\\x41\\0101\\c z'", "echo -E 'a\\t'", "echo -ne 'a\\n'", "echo -x", "env echo -e '\\101'", "env printf '%s\\n' a b", "env printf '%d %x %o %5.2f|%-5s|%05d\\n' 10 255 8 3.14159 ab 42", "env printf '%s' ''", "env printf '%c%c' abc d", "env printf '%b' 'a\\nb\\0101\\101'", "env printf '\\x41\\102\\n'", "env printf '%d\\n' 0x1f 010 \"'A\" -5", "env printf '%5s|%.2s|%-5s|\\n' a bcd e", "env printf '%*d|%-*d|\\n' 5 42 5 42", "env printf '%%|%i\\n' 3", "env printf '%d\\n' abc", "env printf 'x\\cy'", "env printf '%s %s\\n' a b c", "env printf '%e %g %G\\n' 1.5 0.00001 1e10", "env printf '%+d % d\\n' 5 5", "env printf '%x\\n' -1", "env printf '%#x %#o\\n' 255 8", "env printf '%u\\n' -1", "env printf '%.3d|%8.3d\\n' 5 5",
	"expr 1 + 2", "expr 2 '*' 3 + 4", "expr 7 / 2", "expr 7 % 2", "expr 1 = 1", "expr a '<' b", "expr 0", "expr '' '|' x", "expr abc : 'a\\(.\\)'", "expr abc : 'ab'", "expr length hello", "expr substr hello 2 3", "expr index hello l", "expr 1 /", "expr 1 / 0", "expr a + 1", "expr '(' 1 + 2 ')' '*' 3", "expr 3 '>' 10",
	"env test 1 -eq 1", "env test a = b", "env test -f a.txt", "env test -d sub", "env test -L link", "env test -e dangling", "env test -s empty", "env test ! -f nosuch", "env test a = a -a b = c", "env test a = a -o b = c", "env test", "env test ''", "env test x", "env test 1 -gt x", "env [ a = a ]", "env [ a = a", "env test '(' a = a ')'", "env test -n ''", "env test -z ''", "env test a.txt -ef link", "env test -x sub", "env test '!' '!'", "env test = = =",
	"ls", "ls -a", "ls -A", "ls -1 sub", "ls -d sub", "ls a.txt sub", "ls -R sub", "ls -F", "ls -p", "ls -r", "ls -S a.txt bin long", "ls nosuch", "ls nosuch a.txt", "ls -l a.txt link | cut -d' ' -f1-4", "ls -n a.txt", "ls -la sub | wc -l", "ls -lh long", "ls -ld sub | cut -c1-10", "ls -i f1 | wc -w", "ls -s f1", "ls -m1 f1", "ls -ln a.txt link noeol bin", "ls -go f1", "ls -l link", "ls link/",
	"stat -c '%n %s %a %F %U %h' a.txt sub link empty", "stat -c %A a.txt sub link", "stat -c '%u:%g %Y' a.txt", "stat nosuch", "stat --printf='%s\\n' a.txt", "stat -L -c %F link", "stat -c '%05a|%10s' a.txt",
	"readlink link", "readlink a.txt", "readlink -f link | sed 's,.*/,,'", "readlink -f nosuch | sed 's,.*/,,'", "readlink -f no/such", "readlink -e nosuch", "readlink -n link", "realpath sub/../link | sed 's,.*/,,'", "realpath nosuch/x", "realpath -m no/x/../y | sed 's,.*no/,,'", "realpath --relative-to=sub a.txt", "cd sub && pwd | sed 's,.*/,,'",
	"find . | sort", "find sub -name '*.txt'", "find . -type f -name 'a*'", "find . -type d | sort", "find . -type l | sort", "find sub -maxdepth 1 | sort", "find sub -mindepth 1 | sort", "find . -name '*.txt' -o -name '*.log' | sort", "find . ! -type f | sort", "find . -empty | sort", "find . -size +100c | sort", "find sub -name deep -exec cat {} ';'", "find sub -type f -exec echo {} + | tr ' ' '\\n' | sort", "find sub -type f -print0 | tr '\\0' '\\n' | sort", "find . -iname 'A.TXT'", "find . -path '*/d/*'", "find nosuch", "find sub -prune", "find . -name sub -prune -o -type f -print | sort", "find . -perm 644 -name f1", "find . -newer nosuch", "find sub -depth | tail -n 1", "find . -name 'odd*' -printf '%f %s %y %d\\n'", "find . -badtest", "find sub -type f '(' -name x.txt -o -name deep ')' | sort", "find sub -name x.txt -delete -print; touch sub/x.txt; printf 'x1\\nx2\\n' >sub/x.txt", "find sub/ -name y.log", "find . -regex '.*/f[12]' | sort", "find f1 -mmin -60", "find . -quit",
	"echo a b c | xargs", "echo a b c | xargs -n 1", "printf 'a b\\nc\\n' | xargs -I{} echo '<{}>'", "printf 'a\\0b c\\0' | xargs -0 -n1 echo", "echo | xargs echo x", "echo | xargs -r echo x", "echo 'a \"b c\" d\\ e' | xargs -n1", "echo 1 | xargs false", "echo 1 | xargs nosuchcmd", "seq 5 | xargs -n 2 echo", "printf 'a b\\nc d\\n' | xargs -L1 echo", "printf 'a:b' | xargs -d: -n1", "echo \"it's\" | xargs", "echo x | xargs -t echo",
	"od -c bin", "od bin", "od -An -tx1 bin", "od -A d -t u1 bin", "od -x f1", "od -b f1", "od -N 4 -c words", "od -j 4 -c f1", "od -t d4 long", "od empty", "od -tx1z f2 >/dev/null",
	"uname", "uname -s", "uname -n", "uname -r", "uname -m", "uname -a", "uname -o", "uname -v", "uname -sr", "uname x",
	"id", "id -u", "id -g", "id -un", "id -gn", "id -G", "id nobody", "id nosuchuser", "whoami", "nproc", "hostname",
	"date -u -d @0", "date -u -d @86400 +%F", "date -u -d '2024-02-29 12:34:56' '+%Y-%m-%dT%H:%M:%S %j %a %b %e %u %U %V %y %I %p %s'", "date -d 2024-01-01 -I", "date -u -d @1700000000 -R", "date -u -d @1700000000 -Iseconds", "date -d nonsense", "date -d '2024-03-01 -1 day' >/dev/null; date -u -d @5 '+%-S %_S %N'", "date -d 2024-01-31 +%-m/%-d", "date -r nosuch",
	"kill -l 9", "env kill -l TERM", "env kill -0 999999999",
	"env -i A=1", "env -u HOME A=b sh -c 'echo $A'", "env nosuchcmd", "env -i sh -c 'echo x'", "env -C sub pwd | sed 's,.*/,,'", "printenv LC_ALL", "printenv NOSUCH",
	"mkdir n1 && ls -d n1 && rmdir n1", "mkdir a.txt", "mkdir -p n2/x/y && find n2 | sort && rm -r n2", "mkdir no/such", "mkdir -m 700 n3 && stat -c %a n3; rmdir n3", "mkdir -pv n4/x; rm -r n4", "rmdir sub", "rmdir nosuch", "mkdir -p n5/a/b && rmdir -p n5/a/b && ls -d n5", "mkdir", "rm nosuch", "rm -f nosuch", "rm sub", "rm", "rm -f", "rm -rf .",
	"dd if=a.txt bs=4 count=2 status=none", "dd if=a.txt bs=4 skip=1 count=1 status=none", "dd if=a.txt status=none | sha1sum", "dd if=nosuch", "dd bogus=1", "printf abcdef | dd bs=1 skip=2 count=2 status=none", "dd if=a.txt of=o bs=5 seek=1 status=none; od -c o; rm o", "dd if=f1 ibs=2 obs=3 status=none", "dd if=f1 bs=100 conv=sync status=none | wc -c", "dd if=words bs=10 iflag=fullblock count=1 status=none",
	"tee o <f1; cat o; rm o", "tee -a f9 <f1 >/dev/null; tee -a f9 <f2 >/dev/null; cat f9; rm f9", "tee no/such <f1", "yes | head -n 2", "yes a b | head -n 1", "true", "false", "sleep 0", "sleep x", "sleep", "timeout 5 echo x", "timeout 0.05 sleep 5", "timeout 1 nosuchcmd", "timeout x true",
	"du -s nosuch", "truncate -s 10 t && stat -c %s t; truncate -s +5 t; stat -c %s t; truncate -s 1K t; stat -c %s t; rm t", "touch -d @0 t && stat -c %Y t; touch -r t u; stat -c %Y u; touch -t 200001020304.05 t; stat -c %Y t; rm t u", "touch -c nosuch; ls nosuch", "touch no/such", "mktemp -u XX", "mktemp -d ./tXXXXXX | wc -c; rm -r t??????", "mktemp t.XXXXXX.txt | wc -c; rm t.*.txt",
	"ln -s a.txt l1 && readlink l1; ln -s b.txt l1; ln -sf b.txt l1; readlink l1; rm l1", "ln f1 h1 && stat -c %h f1; rm h1", "ln nosuch h2", "ln -s ../x sub/l2 && readlink sub/l2; rm sub/l2", "ln -sn sub l3; ln -sfn a.txt l3; readlink l3; rm l3", "ln -sr sub/d/deep l4; readlink l4; rm l4",
	"cp a.txt c1 && cat c1; rm c1", "cp nosuch c1", "cp sub c2", "cp -r sub c3 && find c3 | sort; rm -r c3", "cp a.txt b.txt sub && ls sub; rm sub/a.txt sub/b.txt", "cp a.txt f1 nosuchdir", "cp -P link c4 && readlink c4; rm c4", "cp link c5 && stat -c %F c5; rm c5", "cp -a sub c6 && ls -R c6; rm -r c6", "cp a.txt a.txt", "cp a.txt", "cp -v f1 c7; rm c7", "cp -n f1 f2; cat f2", "cp -t sub f1 && ls sub; rm sub/f1", "cp -rL link c8; stat -c %F c8; rm c8", "cp -p f1 c9; cmp f1 c9; rm c9", "cp dangling c10", "cp -rP dangling c11; readlink c11; rm c11",
	"cp f1 m1; mv m1 m2; cat m2; ls m1; rm m2", "mv nosuch x", "cp f1 m3; mv m3 sub && ls sub; rm sub/m3", "mv f1", "cp f1 m4; cp f2 m5; mv -n m4 m5; cat m5; rm m4 m5", "mkdir m6 m7; mv m6 m7; find m7; rm -r m7", "cp f1 m8; mv -v m8 m9; rm m9", "mv a.txt b.txt nosuchdir",
	"cp f1 p; chmod 600 p; stat -c %a p; chmod u+x,g=r p; stat -c %a p; chmod a-r p; stat -c %a p; chmod =rw p; stat -c %a p; chmod u=rwx,go=u-w p; stat -c %a p; chmod +s p; stat -c %a p; chmod 0 p; chmod -x p; chmod o+t p; stat -c %a p; rm -f p", "chmod 999 f1", "chmod z f1", "chmod 644 nosuch", "mkdir pd; touch pd/x; chmod -R g+X,o-r pd; stat -c '%n %a' pd pd/x; rm -r pd", "chmod --reference=bin f2; chmod", "chgrp 0 f1", "chown nosuchuser f1", "chown 0:0 f1; stat -c %u:%g f1", "umask 027; touch um; mkdir umd; stat -c %a um umd; rm -r um umd", "umask -S", "umask",
	"tar cf - sub | tar tf - | sort", "tar czf t.tgz sub && tar tzf t.tgz | sort; rm t.tgz", "mkdir td; tar cf - sub a.txt link | tar xf - -C td; find td | sort; readlink td/link; rm -r td", "tar cf t.tar -C sub x.txt y.log; tar tf t.tar; tar xOf t.tar x.txt; rm t.tar", "tar xf nosuch.tar", "tar cf t.tar nosuch; rm -f t.tar", "tar cf t.tar sub; tar tf t.tar sub/d; tar tf t.tar nope; rm t.tar", "tar cf t.tar --exclude=*.log sub; tar tf t.tar | sort; rm t.tar", "mkdir te; tar cf - sub | tar xf - -C te --strip-components=1; find te | sort; rm -r te", "tar cvf t.tar sub/x.txt; tar xvf t.tar; rm t.tar", "tar tf a.txt", "tar",
	"gzip -c f1 | gunzip", "cp f1 z; gzip z; ls z*; gunzip z.gz; cat z; rm z", "cp f1 z1; gzip -k z1; ls z1*; zcat z1.gz; rm z1 z1.gz", "gzip -t f1", "gunzip -c f1", "echo hi | gzip | zcat", "gzip nosuch", "cp f1 z2; gzip -9 z2; gzip -dc z2.gz; gzip z2.gz; rm z2.gz",
	"which nosuchcmd", "tty </dev/null", "less f1 2>/dev/null || cat f1", "nohup echo x 2>/dev/null", "setsid echo x", "mkfifo ff && stat -c %F ff; rm ff",
	"hexdump -C bin", "hexdump bin", "hexdump -C long", "ps -o pid= -p 1", "ps -p 999999999 -o pid=", "pidof nosuchprocess", "pgrep nosuchprocess",
}
