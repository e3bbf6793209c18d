// Command null is the least that a webhook does, in a program that links nothing else: it reads the request, finds its
// uid, and answers with a patch of the usual size.
//
//	null DIRECTORY ADDRESS
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/podtoken/podtoken/bench/admission/tlsserver"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: null DIRECTORY ADDRESS")
		os.Exit(2)
	}
	if err := tlsserver.Serve(context.Background(), http.HandlerFunc(serve), os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "null:", err)
		os.Exit(1)
	}
}

// patch has the size of what is injected into a typical pod.
var patch = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x"), 4500))

func serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, rest, _ := bytes.Cut(body, []byte(`"uid":"`))
	uid, _, _ := bytes.Cut(rest, []byte(`"`))
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"%s","allowed":true,"patchType":"JSONPatch","patch":"%s"}}`, uid, patch)
}
