package machine

import (
	"path"
	"strings"
)

// VolumeKind says what a volume is for, and with it who may write and where it lives.
type VolumeKind string

// Kinds of volumes.
const (
	VolumeData   VolumeKind = "data"   // a disk with a name, which outlives the machine
	VolumeConfig VolumeKind = "config" // a file or folder of the host, copied in at each start, read-only
	VolumeSecret VolumeKind = "secret" // the same, but the guest shows it from its memory, and no copy of it outlasts the start
)

// Volume is one thing that is attached to a machine beside its root.
type Volume struct {
	Kind     VolumeKind `json:"kind"`
	Source   string     `json:"source"` // a volume's name, or an absolute path of the host
	Target   string     `json:"target"` // absolute path in the guest
	ReadOnly bool       `json:"read_only,omitempty"`
	Size     int64      `json:"size_bytes,omitempty"` // of a new data volume
}

// Bounds of volumes.
const (
	MaxVolumes        = 16
	DefaultVolumeSize = 8 << 30
)

// ParseVolume reads what -v takes: NAME:/GUEST/PATH for a data volume, and PATH:/GUEST/PATH,
// where PATH has a slash, for a file or folder of the host; then, after another colon, options
// joined by commas: ro, secret, size=SIZE.
func ParseVolume(s string) (Volume, error) {
	const remedy = "write NAME:/path for a volume that keeps its data, or ./FOLDER:/path to copy a folder in at each start; options after another colon: ro, secret, size=20G"
	bad := func(why string) (Volume, error) {
		return Volume{}, Usagef("input.volume", remedy, "%q is not a volume: %s", clip(s), why)
	}
	source, rest, _ := strings.Cut(s, ":")
	target, options, hasOptions := strings.Cut(rest, ":")
	v := Volume{Kind: VolumeData, Source: source, Target: path.Clean(target)}
	isPath := strings.ContainsRune(source, '/') || source == "." || source == ".."
	switch {
	case strings.ContainsRune(s, 0):
		return bad("it contains a NUL byte")
	case source == "":
		return bad("the source is missing")
	case target == "":
		return bad("the path in the guest is missing")
	case !strings.HasPrefix(target, "/"):
		return bad("the path in the guest is not absolute")
	case !isPath && !validName(source):
		return bad("a volume's name has lower-case letters, digits and '-'")
	}
	if isPath {
		v.Kind, v.ReadOnly = VolumeConfig, true
	}
	if err := checkTarget(v.Target); err != "" {
		return bad(err)
	}
	if !hasOptions {
		return v, nil
	}
	for o := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(o, "=")
		switch {
		case o == "ro":
			v.ReadOnly = true
		case o == "rw" && !isPath:
		case o == "rw":
			return bad("what is copied from the host is read-only in the guest; a volume with a name can be written")
		case o == "secret" && isPath:
			v.Kind = VolumeSecret
		case key == "size" && !isPath:
			n, err := ParseSize(value)
			if err != nil || n < MinDisk || n > MaxDisk {
				return bad("size=" + value + " is not a size from 16M to 16T")
			}
			v.Size = n
		default:
			return bad("there is no option " + quote(o))
		}
	}
	return v, nil
}

func quote(s string) string { return "\"" + clip(s) + "\"" }

// checkTarget says why nothing can be mounted at a guest path, or "".
func checkTarget(target string) string {
	if target == "/" {
		return "the guest's root is the image"
	}
	for _, own := range []string{"/proc", "/sys", "/dev", "/run/mvm"} {
		if target == own {
			return own + " is the guest's own; mount it elsewhere, for example at /data"
		}
		if strings.HasPrefix(target, own+"/") || strings.HasPrefix(own, target+"/") {
			return target + " is in the way of " + own
		}
	}
	return ""
}

// CheckVolumes refuses volumes that exclude each other.
func CheckVolumes(vs []Volume) error {
	if len(vs) > MaxVolumes {
		return Usagef("limit.entries", "put some of it into one folder", "%d volumes are more than %d", len(vs), MaxVolumes)
	}
	targets, names := map[string]bool{}, map[string]bool{}
	for _, v := range vs {
		switch {
		case targets[v.Target]:
			return Usagef("input.volume", "give each its own path in the guest", "two volumes for %s", quote(v.Target))
		case v.Kind == VolumeData && names[v.Source]:
			return Usagef("input.volume", "attach it once", "volume %s is given twice", quote(v.Source))
		}
		targets[v.Target] = true
		if v.Kind == VolumeData {
			names[v.Source] = true
		}
	}
	return nil
}
