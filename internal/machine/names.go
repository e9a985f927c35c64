package machine

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
)

// MaxName is the length limit of a name, in bytes (a DNS label, RFC 1035).
const MaxName = 63

// CheckName validates a machine name: [a-z0-9][a-z0-9-]{0,62}.
func CheckName(name string) error {
	if ok := validName(name); ok {
		return nil
	}
	return Usagef("name.invalid", "use lower-case letters, digits and '-', starting with a letter or digit, at most 63 characters",
		"%q is not a machine name", clip(name))
}

// CheckVolumeName validates a data volume's name, which follows the same rules.
func CheckVolumeName(name string) error {
	if ok := validName(name); ok {
		return nil
	}
	return Usagef("name.invalid", "use lower-case letters, digits and '-', starting with a letter or digit, at most 63 characters",
		"%q is not a volume name", clip(name))
}

func validName(name string) bool {
	if len(name) == 0 || len(name) > MaxName || name[0] == '-' {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// NameFrom makes a name from any text, as close as can be: "" when nothing in it can be part of
// one.
func NameFrom(text string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(text) {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			r = '-'
		}
		if b.Len() < MaxName && (r != '-' || b.Len() > 0 && !strings.HasSuffix(b.String(), "-")) {
			b.WriteRune(r)
		}
	}
	return strings.TrimRight(b.String(), "-")
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// NewID returns a fresh machine id: 16 lower-case hex digits.
func NewID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// ValidID reports whether a text can be a machine id.
func ValidID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 8 && id == strings.ToLower(id)
}

// NewName returns a pleasant unused-looking name, such as "brave-otter-41". taken tells whether
// a candidate is in use already.
func NewName(taken func(string) bool) string {
	adjectives := strings.Fields("able amber brave brisk calm clear clever cosmic crisp daring eager early fair fancy fleet gentle glad golden happy hardy honest jolly keen kind light lively lucky mellow merry mild neat nimble noble plucky proud quick quiet rapid ready sharp shiny silent smart snug solid sunny swift tidy vivid warm wise witty zesty")
	nouns := strings.Fields("acorn alder aspen badger beaver birch bison brook canyon cedar clover comet coral crane cricket dolphin eagle ember falcon fern finch fjord fox gecko glacier harbor hawk hazel heron ibis iris jackal juniper kestrel lagoon larch lark lemur lichen lynx magpie maple marten meadow otter owl panda pebble pine plover puffin quail raven reef robin sable salmon sparrow spruce stork swan tern thistle tulip walnut willow wren yak")
	for range 50 {
		name := pick(adjectives) + "-" + pick(nouns)
		if !taken(name) {
			return name
		}
	}
	return fmt.Sprintf("%s-%s-%s", pick(adjectives), pick(nouns), NewID()[:6])
}

func pick(words []string) string {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil {
		return words[0]
	}
	return words[n.Int64()]
}

// Nearest returns the candidate closest to name by edit distance, or "" when none is close.
func Nearest(name string, candidates []string) string {
	best, bestDist := "", len(name)/2+1
	for _, c := range candidates {
		if d := distance(name, c); d < bestDist {
			best, bestDist = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two short strings.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
		}
		prev = cur
	}
	return prev[len(b)]
}
