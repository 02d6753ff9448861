package keyauth

import "testing"

// FuzzHidden: whatever a body looks like, a key that was found in it is not in
// what goes upstream, and a second look finds nothing.
func FuzzHidden(f *testing.F) {
	f.Add(uint8(urlencoded), "a=1&k=2&%6b=3&k")
	f.Add(uint8(jsonObject), `{"k":"1","x":{"k":2},"k":"3"}`)
	f.Add(uint8(multipartForm), "--B\r\nContent-Disposition: form-data; name=\"k\"\r\n\r\nv--B--\r\n--B \r\n\r\n\r\n--B--")
	f.Add(uint8(multipartForm), "x\r\n--B\r\nContent-Disposition: form-data; name=k\r\n\r\n\r\n--BB\r\n\r\n--B--\r\n")
	f.Add(uint8(multipartForm), "--B\nContent-Disposition: form-data; name=\"k\"\n\n1\n--B--")
	f.Fuzz(func(t *testing.T, what uint8, body string) {
		k, params := kind(what%4), map[string]string{"boundary": "B"}
		form := parseForm(k, params, []byte(body))
		if form == nil {
			return
		}
		if _, n := form.get("k"); n != single {
			return
		}
		rest, dropped := form.without("k")
		if !dropped {
			t.Fatalf("%q holds a key that cannot be taken out", body)
		}
		if again := parseForm(k, params, rest); again != nil {
			if v, n := again.get("k"); n != absent {
				t.Fatalf("%q without the key is %q, which still holds %q", body, rest, v)
			}
		}
	})
}
