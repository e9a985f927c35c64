package layer

import "strings"

// Names by which a layer says what of lower ones it hides.
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh." // AUFS's own, such as .wh..wh.plnk
)

type markerKind int

const (
	markerNone    markerKind = iota
	markerHide               // path, and all below
	markerOpaque             // all below path
	markerIgnored            // AUFS's books
)

// marker is what a path says by its name.
type marker struct {
	kind markerKind
	path string
}

// parseMarker tells whiteouts from entries.
func parseMarker(path string) (marker, error) {
	if !strings.Contains(path, whiteoutPrefix) {
		return marker{}, nil
	}
	dir := "."
	for rest := path; ; {
		part, after, more := strings.Cut(rest, "/")
		name, is := strings.CutPrefix(part, whiteoutPrefix)
		switch {
		case !is && !more:
			return marker{}, nil
		case !is:
		case strings.HasPrefix(part, aufsPrefix) && part != opaqueName && part != aufsPrefix:
			return marker{kind: markerIgnored}, nil
		case more:
			return marker{}, nameError("a name below the whiteout %q", part)
		case part == opaqueName:
			return marker{markerOpaque, dir}, nil
		case name == "" || name == "." || name == ".." || part == aufsPrefix:
			return marker{}, nameError("a whiteout of nothing")
		default:
			return marker{markerHide, strings.TrimPrefix(dir+"/"+name, "./")}, nil
		}
		dir = strings.TrimPrefix(dir+"/"+part, "./")
		rest = after
	}
}
