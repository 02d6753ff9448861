package wire

import (
	"fmt"
	"strconv"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// AppendRequestLine appends "METHOD target HTTP/1.1". A target that could end the
// line is an error: nothing a client or a plugin wrote may split a message.
func AppendRequestLine(dst []byte, method, target string) ([]byte, error) {
	if !IsToken(method) || target == "" {
		return dst, fmt.Errorf("writing the request line: method or target is not valid")
	}
	for i := 0; i < len(target); i++ {
		if target[i] <= ' ' || target[i] == 0x7f {
			return dst, fmt.Errorf("writing the request line: the target has a space or a control character at %d", i)
		}
	}
	dst = append(dst, method...)
	dst = append(dst, ' ')
	dst = append(dst, target...)
	return append(dst, " HTTP/1.1\r\n"...), nil
}

// AppendStatusLine appends "HTTP/1.1 status reason".
func AppendStatusLine(dst []byte, status int, reason string) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, reason...)
	return append(dst, "\r\n"...)
}

// AppendField appends one field line. A name that is no token or a value with a
// control character is an error.
func AppendField(dst []byte, name, value string) ([]byte, error) {
	if !IsToken(name) {
		return dst, fmt.Errorf("writing field %q: the name is not a token", name)
	}
	if !Plain(value) {
		return dst, fmt.Errorf("writing field %s: its value has a control character", name)
	}
	dst = append(dst, name...)
	dst = append(dst, ": "...)
	dst = append(dst, value...)
	return append(dst, "\r\n"...), nil
}

// AppendChunkSize appends the size line of a chunk of n bytes.
func AppendChunkSize(dst []byte, n int) []byte {
	dst = strconv.AppendInt(dst, int64(n), 16)
	return append(dst, "\r\n"...)
}

// AppendLastChunk appends the last chunk and the trailer section; trailers may be nil.
func AppendLastChunk(dst []byte, trailers *exchange.Fields) ([]byte, error) {
	dst = append(dst, "0\r\n"...)
	if trailers != nil {
		var err error
		for f := range trailers.All() {
			if dst, err = AppendField(dst, f.Name, f.Value); err != nil {
				return dst, err
			}
		}
	}
	return append(dst, "\r\n"...), nil
}
