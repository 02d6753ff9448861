package http2

import (
	"fmt"
	"strconv"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// Header sections are encoded without the dynamic table and without Huffman's code
// (RFC 7541): names that the static table has are sent as its index, everything else
// as it is. A table would hold one value a request of Date and request ids; the bytes
// saved are not worth what keeping it costs here.

const (
	tableSizeZero  = 0x20 // dynamic table size update to 0
	indexedStatus  = 8    // :status 200; 204, 206, 304, 400, 404, 500 follow
	literalIndex   = 0x00 // literal field without indexing, 4 bits of index
	neverIndexed   = 0x10 // the same, for what must not be kept in any table
	nameIndexBits  = 15
	lengthIndex    = 28 // content-length
	longestKnown   = len("access-control-allow-origin")
	setCookieIndex = 55
)

// staticNames are the indices of fields that responses have (RFC 7541, appendix A).
var staticNames = map[string]int{
	"accept-ranges": 18, "access-control-allow-origin": 20, "age": 21, "allow": 22, "cache-control": 24,
	"content-disposition": 25, "content-encoding": 26, "content-language": 27, "content-length": lengthIndex, "content-location": 29,
	"content-range": 30, "content-type": 31, "date": 33, "etag": 34, "expires": 36, "last-modified": 44, "link": 45, "location": 46,
	"proxy-authenticate": 48, "refresh": 52, "retry-after": 53, "server": 54, "set-cookie": setCookieIndex, "strict-transport-security": 56,
	"vary": 59, "via": 60, "www-authenticate": 61,
}

// appendStatus appends :status.
func appendStatus(b []byte, status int) []byte {
	for i, known := range [...]int{200, 204, 206, 304, 400, 404, 500} {
		if status == known {
			return append(b, byte(0x80|indexedStatus+i))
		}
	}
	b = append(b, literalIndex|indexedStatus, 3)
	return append(b, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10))
}

// appendLength appends content-length.
func appendLength(b []byte, n int64) []byte {
	b = appendInt(b, literalIndex, nameIndexBits, lengthIndex)
	at := len(b)
	b = strconv.AppendInt(append(b, 0), n, 10)
	b[at] = byte(len(b) - at - 1)
	return b
}

// appendInt appends an integer with a prefix whose bits are all set in limit (RFC 7541, section 5.1).
func appendInt(b []byte, first byte, limit, n int) []byte {
	if n < limit {
		return append(b, first|byte(n))
	}
	b = append(b, first|byte(limit))
	for n -= limit; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return append(b, byte(n))
}

// appendFields appends the fields of a message, but those of HTTP/1.1 connections,
// which may not be sent here (RFC 9113, section 8.2.2): what the upstream side let
// through, or a plugin set, ends here.
func appendFields(b []byte, fields *exchange.Fields) ([]byte, error) {
	var err error
	for i := range fields.Len() {
		f := fields.At(i)
		if b, err = appendField(b, f.Name, f.Value); err != nil {
			return b, err
		}
	}
	return b, nil
}

func appendField(b []byte, name, value string) ([]byte, error) {
	if connectionField(name) {
		return b, nil
	}
	if !wire.IsToken(name) {
		return b, fmt.Errorf("writing field %q: the name is not a token", name)
	}
	if !validValue(value) {
		return b, fmt.Errorf("writing field %s: its value has a control character", name)
	}
	index := 0
	if len(name) <= longestKnown {
		var lower [longestKnown]byte
		for i := range len(name) {
			lower[i] = lowered(name[i])
		}
		index = staticNames[string(lower[:len(name)])]
	}
	first := byte(literalIndex)
	if index == setCookieIndex {
		first = neverIndexed
	}
	b = appendInt(b, first, nameIndexBits, index)
	if index == 0 {
		b = appendInt(b, 0, 127, len(name))
		for i := range len(name) {
			b = append(b, lowered(name[i]))
		}
	}
	b = appendInt(b, 0, 127, len(value))
	return append(b, value...), nil
}

func lowered(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// connectionField says whether a field is of HTTP/1.1 connections.
func connectionField(name string) bool {
	switch len(name) {
	case 7:
		return exchange.EqualFold(name, "Upgrade")
	case 10:
		return exchange.EqualFold(name, "Connection") || exchange.EqualFold(name, "Keep-Alive")
	case 16:
		return exchange.EqualFold(name, "Proxy-Connection")
	case 17:
		return exchange.EqualFold(name, "Transfer-Encoding")
	}
	return false
}
