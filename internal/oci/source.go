package oci

import (
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// kind says what a source is.
type kind int

const (
	kindRegistry   kind = iota
	kindLayout          // a folder
	kindSaved           // a file of `docker save`
	kindOCIArchive      // a layout in a tar file
	kindEngine          // a local engine
)

// Source says where an image is to be had.
type Source struct {
	kind kind
	path string    // of a folder or file
	tag  string    // in a layout; "" means the only image there
	ref  reference // in a registry, a saved file (may be empty) or an engine
	id   string    // in an engine, instead of ref
}

// reference is a name as Docker understands it.
type reference struct {
	host   string // "docker.io", "localhost:5000"
	repo   string // "library/redis"
	tag    string // "7"; "" with a digest
	digest string // "sha256:…"; it decides when both are there
}

func (r reference) String() string {
	if r.repo == "" {
		return ""
	}
	s := r.host + "/" + r.repo
	if r.digest != "" {
		return s + "@" + r.digest
	}
	return s + ":" + r.tag
}

// target is the last part of a manifest's address.
func (r reference) target() string {
	if r.digest != "" {
		return r.digest
	}
	return r.tag
}

// transports are the prefixes that say what a source is, as skopeo and podman write them.
func transports() map[string]kind {
	return map[string]kind{
		"docker://": kindRegistry, "oci:": kindLayout, "oci-layout:": kindLayout, "oci-archive:": kindOCIArchive,
		"docker-archive:": kindSaved, "docker-daemon:": kindEngine,
	}
}

const (
	maxSource = 4096
	hub       = "docker.io"
)

// HasTransport reports whether s begins with a word that says what kind of source it is.
func HasTransport(s string) bool {
	for prefix := range transports() {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// ParseSource reads one of
//
//	[docker://][HOST[:PORT]/]NAME[:TAG][@DIGEST]    an image in a registry
//	oci:DIR[:TAG], oci-layout:DIR[:TAG]             an OCI layout
//	oci-archive:FILE[:TAG]                          an OCI layout in a tar file
//	docker-archive:FILE[:NAME[:TAG]]                what `docker save` wrote
//	docker-daemon:NAME[:TAG], docker-daemon:DIGEST  an image of the local engine
//
// A name without a host is one of docker.io, a name without a tag means "latest".
func ParseSource(s string) (Source, error) {
	if len(s) > maxSource || strings.ContainsRune(s, 0) {
		return Source{}, sourceError("%s is no image", quote(s))
	}
	for prefix, k := range transports() {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			return parseTransport(k, rest, s)
		}
	}
	return parseTransport(kindRegistry, s, s)
}

func parseTransport(k kind, rest, whole string) (Source, error) {
	src := Source{kind: k}
	var err error
	switch k {
	case kindRegistry:
		src.ref, err = parseReference(rest)
	case kindEngine:
		if strings.HasPrefix(rest, digestPrefix) {
			src.id = rest
			return src, checkDigest(rest)
		}
		src.ref, err = parseReference(rest)
	case kindLayout, kindOCIArchive:
		src.path, src.tag, _ = strings.Cut(rest, ":")
		if len(src.tag) > 255 {
			err = sourceError("%s: the tag is too long", quote(whole))
		}
	case kindSaved:
		var name string
		src.path, name, _ = strings.Cut(rest, ":")
		if name != "" {
			src.ref, err = parseReference(name)
		}
	}
	if rest == "" && whole != "" && src.path == "" && (k == kindRegistry || k == kindEngine) {
		err = sourceError("%s names no image", quote(whole))
	}
	if err == nil && src.path == "" && (k == kindLayout || k == kindOCIArchive || k == kindSaved) {
		err = sourceError("%s names no file", quote(whole))
	}
	if err != nil {
		return Source{}, err
	}
	return src, nil
}

func sourceError(format string, args ...any) error {
	return machine.Usagef("image.name", "write it like docker.io/library/redis:7, localhost:5000/app@sha256:…, oci:DIR or docker-archive:FILE", format, args...)
}

// The grammar of https://github.com/opencontainers/distribution-spec/blob/main/spec.md and of
// Docker's references. They are compiled when they are needed: every command pays for what is
// made at the program's start.

func repoPattern() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
}

func tagPattern() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
}

func hostPattern() *regexp.Regexp {
	return regexp.MustCompile(`^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?$`)
}

func parseReference(s string) (reference, error) {
	var r reference
	name, digest, pinned := strings.Cut(s, "@")
	if pinned {
		if err := checkDigest(digest); err != nil {
			return r, err
		}
		r.digest = digest
	}
	r.host, r.repo = hub, name
	if first, rest, ok := strings.Cut(name, "/"); ok && (strings.ContainsAny(first, ".:[") || first == "localhost") {
		r.host, r.repo = strings.ToLower(first), rest
	}
	var tagged bool
	r.repo, r.tag, tagged = strings.Cut(r.repo, ":")
	if !tagged && !pinned {
		r.tag = "latest"
	}
	switch r.host {
	case "index." + hub, "registry-1." + hub:
		r.host = hub
	}
	if r.host == hub && !strings.Contains(r.repo, "/") {
		r.repo = "library/" + r.repo
	}
	switch {
	case len(r.host) > 255 || !hostPattern().MatchString(r.host) || !validHost(r.host):
		return r, sourceError("%s: %s is no registry", quote(s), quote(r.host))
	case len(r.repo) > 255 || !repoPattern().MatchString(r.repo):
		return r, sourceError("%s: %s is no image name", quote(s), quote(r.repo))
	case (tagged || !pinned) && !tagPattern().MatchString(r.tag):
		return r, sourceError("%s: %s is no tag", quote(s), quote(r.tag))
	}
	if pinned {
		r.tag = ""
	}
	return r, nil
}

// validHost refuses what only looks like an address.
func validHost(host string) bool {
	u, err := url.Parse("https://" + host + "/")
	if err != nil || u.Host != host || u.Hostname() == "" {
		return false
	}
	if strings.HasPrefix(host, "[") {
		a, err := netip.ParseAddr(u.Hostname())
		return err == nil && a.Is6() && a.Zone() == ""
	}
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		return err == nil && n > 0
	}
	return !strings.HasSuffix(host, ":")
}

func (s Source) String() string {
	switch s.kind {
	case kindLayout, kindOCIArchive:
		prefix := "oci:"
		if s.kind == kindOCIArchive {
			prefix = "oci-archive:"
		}
		if s.tag != "" {
			return prefix + s.path + ":" + s.tag
		}
		return prefix + s.path
	case kindSaved:
		if name := s.ref.String(); name != "" {
			return "docker-archive:" + s.path + ":" + name
		}
		return "docker-archive:" + s.path
	case kindEngine:
		return "docker-daemon:" + s.id + s.ref.String()
	default:
		return s.ref.String()
	}
}

// Pinned reports whether the source can only ever mean one image.
func (s Source) Pinned() bool {
	return s.ref.digest != "" || s.id != ""
}
