package proxyproto

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
)

// Types of extensions (section 2.2).
const (
	typeALPN      = 0x01
	typeAuthority = 0x02
)

// Introduction is what a header tells of a client. Source and Destination are of
// one family, or mapped ones are taken as what they map.
type Introduction struct {
	Source, Destination netip.AddrPort
	Authority           string // the server name that the client asked for, "" for none; version 2
	ALPN                string // the protocol that was agreed on, likewise
	Datagram            bool   // version 2
}

// Append appends a header of a version to b, with a checksum in version 2. Where the
// two addresses are not of one family the header says that the client is not known.
func Append(b []byte, version int, in Introduction) []byte {
	from, to := in.Source.Addr().Unmap().WithZone(""), in.Destination.Addr().Unmap().WithZone("")
	known := from.IsValid() && to.IsValid() && from.Is4() == to.Is4()
	if version == 1 {
		return appendV1(b, in, from, to, known)
	}
	begin := len(b)
	b = append(b, signature[:]...)
	transport := byte(1)
	if in.Datagram {
		transport = 2
	}
	switch {
	case !known:
		b = append(b, 0x21, 0x00)
	case from.Is4():
		b = append(b, 0x21, 0x10|transport)
	default:
		b = append(b, 0x21, 0x20|transport)
	}
	b = append(b, 0, 0) // length, known at the end
	if known {
		b = append(append(b, from.AsSlice()...), to.AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, in.Source.Port())
		b = binary.BigEndian.AppendUint16(b, in.Destination.Port())
	}
	b = extension(b, typeALPN, in.ALPN)
	b = extension(b, typeAuthority, in.Authority)
	b = append(b, typeCRC32C, 0, 4, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(b[begin+14:], uint16(len(b)-begin-16)) //nolint:gosec // names are at most 255 bytes long
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[begin:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// longestName is more than a server name or a protocol's name can have (RFC 1035,
// section 2.3.4; RFC 7301, section 3.1).
const longestName = 255

func extension(b []byte, kind byte, value string) []byte {
	if value == "" || len(value) > longestName {
		return b
	}
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value))) //nolint:gosec // looked at above
	return append(b, value...)
}

func appendV1(b []byte, in Introduction, from, to netip.Addr, known bool) []byte {
	if !known {
		return append(b, "PROXY UNKNOWN\r\n"...)
	}
	family := "TCP4"
	if from.Is6() {
		family = "TCP6"
	}
	b = fmt.Appendf(b, "PROXY %s %s %s ", family, from, to)
	b = strconv.AppendUint(b, uint64(in.Source.Port()), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(in.Destination.Port()), 10)
	return append(b, "\r\n"...)
}
