package userland

import (
	"encoding/binary"
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nlRequest builds one rtnetlink message (rtnetlink(7)).
type nlRequest struct {
	kind, flags uint16
	body        []byte
}

// put appends a fixed-size header structure as the kernel lays it out.
func put[T any](r *nlRequest, v T) {
	r.body = append(r.body, unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v))...)
}

// attr appends an attribute, padded to four bytes.
func (r *nlRequest) attr(kind uint16, value []byte) {
	r.body = binary.NativeEndian.AppendUint16(r.body, uint16(unix.SizeofRtAttr+len(value)))
	r.body = binary.NativeEndian.AppendUint16(r.body, kind)
	r.body = append(r.body, value...)
	for len(r.body)%unix.RTA_ALIGNTO != 0 {
		r.body = append(r.body, 0)
	}
}

func (r *nlRequest) attr32(kind uint16, v uint32) {
	r.attr(kind, binary.NativeEndian.AppendUint32(nil, v))
}

func (r *nlRequest) bytes() []byte {
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(r.body)))
	msg = binary.NativeEndian.AppendUint16(msg, r.kind)
	msg = binary.NativeEndian.AppendUint16(msg, r.flags|unix.NLM_F_REQUEST)
	msg = binary.NativeEndian.AppendUint32(msg, 1) // sequence: there is only one
	msg = binary.NativeEndian.AppendUint32(msg, 0)
	return append(msg, r.body...)
}

var errNetlink = errors.New("malformed netlink message")

// do sends the request and collects the answers up to the acknowledgement or
// the end of a dump.
func (r *nlRequest) do() ([]syscall.NetlinkMessage, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, r.bytes(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var all []syscall.NetlinkMessage
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		msgs, err := syscall.ParseNetlinkMessage(append([]byte(nil), buf[:n]...))
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return all, nil
			case unix.NLMSG_ERROR:
				if len(m.Data) < 4 {
					return nil, errNetlink
				}
				if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
					return nil, syscall.Errno(-code)
				}
				return all, nil
			}
			all = append(all, m)
			if m.Header.Flags&unix.NLM_F_MULTI == 0 && r.flags&unix.NLM_F_ACK == 0 {
				return all, nil
			}
		}
	}
}

// change sends a request that changes something.
func (r *nlRequest) change(extra uint16) error {
	r.flags |= unix.NLM_F_ACK | extra
	_, err := r.do()
	return err
}

// dump asks for all objects of a kind.
func dump(kind uint16, family byte) ([]syscall.NetlinkMessage, error) {
	r := &nlRequest{kind: kind, flags: unix.NLM_F_DUMP}
	switch kind {
	case unix.RTM_GETLINK:
		put(r, unix.IfInfomsg{Family: family})
	case unix.RTM_GETADDR:
		put(r, unix.IfAddrmsg{Family: family})
	case unix.RTM_GETNEIGH:
		put(r, unix.NdMsg{Family: family})
	default:
		put(r, unix.RtMsg{Family: family})
	}
	return r.do()
}

// nlObject is an answer: its fixed header and its attributes by number.
type nlObject struct {
	head  []byte
	attrs map[uint16][]byte
}

// parseObject splits a message into its header of size bytes and attributes.
func parseObject(m syscall.NetlinkMessage, size int) (nlObject, error) {
	if len(m.Data) < size {
		return nlObject{}, errNetlink
	}
	o := nlObject{head: m.Data[:size], attrs: map[uint16][]byte{}}
	for rest := m.Data[size:]; len(rest) >= unix.SizeofRtAttr; {
		n := int(binary.NativeEndian.Uint16(rest))
		if n < unix.SizeofRtAttr || n > len(rest) {
			return nlObject{}, errNetlink
		}
		kind := binary.NativeEndian.Uint16(rest[2:]) &^ (1<<15 | 1<<14) // without NLA_F_NESTED and _NET_BYTEORDER
		o.attrs[kind] = rest[unix.SizeofRtAttr:n]
		rest = rest[min(len(rest), (n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
	}
	return o, nil
}

func (o nlObject) u32(kind uint16) (uint32, bool) {
	v := o.attrs[kind]
	if len(v) < 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(v), true
}

func (o nlObject) text(kind uint16) string { return unix.ByteSliceToString(o.attrs[kind]) }
