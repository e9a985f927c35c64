package image

import (
	"regexp"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// maxName bounds an image's name, in bytes: its file name must fit (255) when escaped.
const maxName = 200

// Name is the name of an image in the one form under which it is stored: with a tag or a
// digest, and without the parts that every container tool leaves out ("docker.io/library/").
type Name string

// latest is the tag of a name that has none.
const latest = "latest"

// ParseName reads a name as people write it.
func ParseName(text string) (Name, error) {
	invalid := func() (Name, error) {
		return "", machine.Usagef("image.name", "use lower-case letters, digits and . _ - / with an optional :TAG, for example web:1.2",
			"%q is not an image name", clip(text, 80))
	}
	if len(text) > maxName || !nameForm().MatchString(text) {
		return invalid()
	}
	for part := range strings.SplitSeq(text, "/") {
		if part == "." || part == ".." {
			return invalid()
		}
	}
	name := text
	for _, implied := range []string{"docker.io/library/", "index.docker.io/library/", "docker.io/", "index.docker.io/"} {
		if rest, ok := strings.CutPrefix(name, implied); ok && rest != "" {
			name = rest
			break
		}
	}
	if !strings.Contains(name, "@") && !strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":") {
		name += ":" + latest
	}
	return Name(name), nil
}

// shortDigits is how many digits of an ID lists show.
const shortDigits = 12

// asID returns the digits when a name could be meant for the beginning of an ID, "" otherwise.
func (n Name) asID() string {
	digits := strings.TrimPrefix(n.String(), "sha256:")
	if len(digits) < 6 || len(digits) > 64 || strings.Trim(digits, "0123456789abcdef") != "" {
		return ""
	}
	return digits
}

// nameForm is [HOST[:PORT]/]PATH[:TAG][@sha256:HEX], as the distribution specification has it.
func nameForm() *regexp.Regexp {
	return regexp.MustCompile(`^(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$`)
}

// String returns the name as lists show it: the tag "latest" goes without saying.
func (n Name) String() string { return strings.TrimSuffix(string(n), ":"+latest) }

// file is the name as a file name: no separator, and never one of our own files.
func (n Name) file() string {
	return strings.NewReplacer("%", "%25", "/", "%2F").Replace(string(n)) + ".json"
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
