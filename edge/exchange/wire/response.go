package wire

import (
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// ParseResponse reads a complete response head, its empty line included, into r
// and f; method is the request's, which tells whether there is a body. r must be
// empty. Hop-by-hop fields are taken out, Content-Length is in r.Length only.
func ParseResponse(head, method string, lim Limits, r *exchange.Response, f *Framing) *Error {
	lim = lim.filled()
	*f = Framing{}
	start, rest, ok := line(head)
	if !ok || len(head) > lim.Head {
		return refuse(502, "the status line does not end with CRLF, or the head is too long")
	}
	minor, e := statusLine(start, r)
	if e != nil {
		return e
	}
	h := parser{lim: lim, fields: &r.Fields}
	if e := h.parse(rest); e != nil {
		e.Status = 502
		return e
	}
	if h.expect != "" {
		r.Fields.Add("Expect", h.expect) // means nothing in a response and is passed on
	}
	if h.hosts > 0 {
		r.Fields.Add("Host", h.host)
	}
	keepAlive := h.connectionTokens(f)
	f.Close = f.Close || minor == 0 && !keepAlive
	if r.Status == 101 {
		f.Upgrade = f.Upgrade && h.upgrade != ""
		if f.Upgrade {
			r.Fields.Add("Upgrade", h.upgrade)
		}
	} else if h.upgrade != "" {
		f.Upgrade = false
	}
	return h.responseBody(method, minor, r, f)
}

func statusLine(s string, r *exchange.Response) (minor int, e *Error) {
	if len(s) < 12 || s[:7] != "HTTP/1." || !digit(s[7]) || s[8] != ' ' || !digit(s[9]) || !digit(s[10]) || !digit(s[11]) || len(s) > 12 && s[12] != ' ' {
		return 0, refuse(502, "the status line is not an HTTP/1 one")
	}
	r.Status = int(s[9]-'0')*100 + int(s[10]-'0')*10 + int(s[11]-'0')
	if r.Status < 100 {
		return 0, refuse(502, "the status is below 100")
	}
	if len(s) > 13 {
		r.Reason = s[13:]
		for i := 0; i < len(r.Reason); i++ {
			if c := r.Reason[i]; c < ' ' && c != '\t' || c == 0x7f {
				return 0, refuse(502, "the reason phrase has a control character")
			}
		}
	}
	return int(s[7] - '0'), nil
}

// responseBody reads how the body of a response ends (RFC 9112, section 6.3).
// Length -1 without Chunked means that the end of the connection ends it.
func (h *parser) responseBody(method string, minor int, r *exchange.Response, f *Framing) *Error {
	none := method == "HEAD" || r.Status/100 == 1 || r.Status == 204 || r.Status == 304
	announced := int64(-1)
	if h.lengths > 0 {
		n, ok := h.lengthList()
		if !ok {
			return refuse(502, "Content-Length is not one number")
		}
		announced = n
	}
	switch {
	case h.codings > 0 && (h.lengths > 0 || h.codings > 1 || minor == 0 || !exchange.EqualFold(h.coding, "chunked")):
		return refuse(502, "Transfer-Encoding is not chunked alone")
	case none:
		f.Length = 0
		r.Length = announced
		if r.Status == 204 || r.Status/100 == 1 {
			r.Length = 0
			if h.codings > 0 || announced > 0 {
				f.Close = true // what follows cannot be told from the next response
			}
		}
	case h.codings > 0:
		f.Chunked, f.Length, r.Length = true, -1, -1
	case announced >= 0:
		f.Length, r.Length = announced, announced
	default:
		f.Length, r.Length, f.Close = -1, -1, true
	}
	return nil
}

// lengthList reads Content-Length, which an origin may say twice with the same number.
func (h *parser) lengthList() (int64, bool) {
	if h.lengths > 1 {
		return 0, false
	}
	if first, _, ok := strings.Cut(h.length, ","); ok {
		for v := range strings.SplitSeq(h.length, ",") {
			if strings.TrimSpace(v) != strings.TrimSpace(first) {
				return 0, false
			}
		}
		h.length = strings.TrimSpace(first)
	}
	return h.contentLength()
}
