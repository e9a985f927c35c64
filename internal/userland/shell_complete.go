package userland

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxShown bounds the candidates that are listed at a second Tab.
const maxShown = 200

// ownWords are the commands of the shell itself, for completion.
const ownWords = "alias bg break cd command continue eval exec exit export fg hash jobs local readonly return set shift source times trap type ulimit umask unalias unset wait"

// completer completes what is typed at the prompt: the first word of a command to a command,
// the others to files.
type completer struct {
	dir   func() string // the shell's working directory
	path  func() string // its PATH
	home  func() string
	print func(text string) // shows text above the prompt

	last string // the line at the last Tab that found more than one
}

// key is the editor's callback. At Tab it completes the word before the cursor as far as its
// candidates agree; at a second one it lists them.
func (k *completer) key(line string, pos int, key rune) (newLine string, newPos int, ok bool) {
	if key != '\t' {
		return "", 0, false
	}
	start, first := wordStart(line[:pos])
	word := unquoteWord(line[start:pos])
	var all []string
	if first && !strings.Contains(word, "/") {
		all = k.commands(word)
	} else {
		all = k.files(word, first)
	}
	switch common := commonPrefix(all); {
	case len(all) == 0:
		return line, pos, true
	case len(all) == 1:
		done := quoteWord(all[0])
		if !strings.HasSuffix(done, "/") {
			done += " "
		}
		return line[:start] + done + line[pos:], start + len(done), true
	case len(common) > len(word):
		done := quoteWord(common)
		return line[:start] + done + line[pos:], start + len(done), true
	}
	if k.last != line {
		k.last = line
		return line, pos, true
	}
	k.list(all)
	return line, pos, true
}

// list shows the candidates, without the folder that all of them are in.
func (k *completer) list(all []string) {
	var b strings.Builder
	for i, name := range all {
		if i == maxShown {
			b.WriteString("...")
			break
		}
		cut := strings.LastIndexByte(strings.TrimSuffix(name, "/"), '/') + 1
		b.WriteString(escapeControl(name[cut:]) + "  ")
	}
	k.print(strings.TrimRight(b.String(), " ") + "\n")
}

// wordStart finds where the last word of text begins, and whether it is the first of a command.
func wordStart(text string) (start int, first bool) {
	first = true
	escaped, quote := false, byte(0)
	inWord := false
	for i := range len(text) {
		ch := text[i]
		switch {
		case escaped:
			escaped = false
		case ch == '\\' && quote != '\'':
			escaped = true
		case quote != 0:
			if ch == quote {
				quote = 0
			}
			continue
		case ch == '\'' || ch == '"':
			quote = ch
		case strings.IndexByte("|&;()`", ch) >= 0:
			start, first, inWord = i+1, true, false
			continue
		case ch == ' ' || ch == '\t' || ch == '<' || ch == '>':
			if inWord && !strings.Contains(text[start:i], "=") { // NAME=value may stand before a command
				first = false
			}
			if ch == '<' || ch == '>' {
				first = false
			}
			start, inWord = i+1, false
			continue
		}
		if !inWord {
			start, inWord = i, true
		}
	}
	return start, first
}

// quotable are the characters that mean something to the shell.
const quotable = " \t\\'\"`$&|;()<>*?[]#!{}~"

func quoteWord(s string) string {
	var b strings.Builder
	for i, r := range s {
		if strings.ContainsRune(quotable, r) && (r != '~' || i > 0) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// unquoteWord takes away the quoting of a word that may not be closed yet.
func unquoteWord(s string) string {
	var b strings.Builder
	escaped, quote := false, rune(0)
	for _, r := range s {
		switch {
		case escaped:
			escaped = false
		case r == '\\' && quote != '\'':
			escaped = true
			continue
		case r == quote && quote != 0:
			quote = 0
			continue
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// commands are those that begin with word: the shell's own and what PATH has.
func (k *completer) commands(word string) []string {
	all := append(strings.Fields(ownWords), Names()...)
	for dir := range strings.SplitSeq(k.path(), ":") {
		entries, err := os.ReadDir(k.absolute(dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), word) {
				continue
			}
			if st, err := os.Stat(filepath.Join(k.absolute(dir), e.Name())); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				all = append(all, e.Name())
			}
		}
	}
	return candidates(all, word)
}

// files are the paths that begin with word; those of folders end in a slash.
func (k *completer) files(word string, runnable bool) []string {
	cut := strings.LastIndexByte(word, '/') + 1
	dir, prefix := word[:cut], word[cut:]
	place := dir
	if rest, ok := strings.CutPrefix(dir, "~/"); ok && k.home() != "" {
		place = k.home() + "/" + rest
	}
	entries, err := os.ReadDir(k.absolute(place))
	if err != nil {
		return nil
	}
	var all []string
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, prefix) || prefix == "" && strings.HasPrefix(name, ".") {
			continue
		}
		st, err := os.Stat(filepath.Join(k.absolute(place), name))
		switch {
		case err == nil && st.IsDir():
			name += "/"
		case runnable && (err != nil || st.Mode()&0o111 == 0):
			continue
		}
		all = append(all, dir+name)
	}
	return candidates(all, word)
}

func (k *completer) absolute(dir string) string {
	if filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(k.dir(), dir)
}

// candidates sorts, and leaves out names that cannot be typed on one line.
func candidates(all []string, word string) []string {
	all = slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, word) || escapeControl(s) != s })
	slices.Sort(all)
	return slices.Compact(all)
}

func commonPrefix(all []string) string {
	if len(all) == 0 {
		return ""
	}
	common := []rune(all[0])
	for _, s := range all[1:] {
		n := 0
		for _, r := range s {
			if n == len(common) || common[n] != r {
				break
			}
			n++
		}
		common = common[:n]
	}
	return string(common)
}
