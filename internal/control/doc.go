// Package control is the protocol between mvmctl and the supervisor of one machine: HTTP/2
// without TLS over a unix socket that only its owner can open, its messages, its server and
// its client.
//
// It decides nothing: the supervisor implements Supervisor, the engine calls Client through an
// interface of its own. Requests for the guest agent pass through unread: the supervisor owns
// the one authenticated connection and the control socket carries the streams to it.
package control

// Request paths.
const (
	pathStatus   = "/v1/status"   // GET → machine.Status
	pathStop     = "/v1/stop"     // POST StopRequest → 202; the end itself is the supervisor's lock falling free
	pathPause    = "/v1/pause"    // POST → 204
	pathResume   = "/v1/resume"   // POST → 204
	pathForwards = "/v1/forwards" // GET → []machine.Port; POST []machine.Port → []machine.Port; DELETE machine.Port
	agentPrefix  = "/agent"       // everything below goes to the guest agent
)

// maxMessage bounds one JSON message in either direction, in bytes.
const maxMessage = 1 << 20

// StopRequest asks the supervisor to end its machine.
type StopRequest struct {
	GraceMS int64 `json:"grace_ms"` // for the guest's services
	Force   bool  `json:"force"`    // kill the VMM at once
}
