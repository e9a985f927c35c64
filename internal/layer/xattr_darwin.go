package layer

import "os"

// hostXattrs: what macOS keeps in extended attributes (quarantine, Finder's settings) means
// nothing in an image.
func hostXattrs(_, _ *os.File, _ string) (map[string][]byte, error) { return nil, nil }
