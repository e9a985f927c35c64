//go:build unix

package agent

import (
	"encoding/json"
	"net/http"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// serveDiff streams the differences between the image and the machine's root.
func (a *Agent) serveDiff(w http.ResponseWriter, r *http.Request) {
	if a.opts.Upper == "" {
		refuse(w, agentproto.Errorf(agentproto.CodeNoOverlay, "use a machine with a disk of its own",
			"this machine's root is not a layer over its image"))
		return
	}
	d, err := newDiffer(a.opts.Upper, a.opts.Lower)
	if err != nil {
		refuse(w, agentproto.Errorf(agentproto.CodeNoOverlay, "", "opening the machine's layer: %v", cause(err)))
		return
	}
	defer d.close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Trailer", agentproto.TrailerError)
	w.WriteHeader(http.StatusOK)
	enc := json.NewEncoder(w)
	err = d.walk(func(c agentproto.Change) error { return enc.Encode(c) })
	if err == nil {
		err = enc.Encode(agentproto.Change{End: true})
	}
	if err != nil {
		setTrailer(w, agentproto.Errorf(agentproto.CodeCopy, "", "reading the machine's layer: %v", err))
		return
	}
	setTrailer(w, nil)
}
