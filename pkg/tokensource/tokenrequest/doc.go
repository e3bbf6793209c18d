// Package tokenrequest is for operators and controllers that need tokens for other services: it asks the API server for
// them, keeps the current one in memory, and asks for the next one before it ends.
//
//	source, err := tokenrequest.New(clientset.CoreV1(), tokenrequest.Config{
//		Namespace: "payments", ServiceAccount: "reconciler", Audiences: []string{"vault"},
//	})
//	client := &http.Client{Transport: tokensource.NewTransport(source, nil)}
//
// Nothing runs in the background, and there is nothing to close: whoever asks for a token late in its life starts the request
// for the next one, and gets the current one at once. However many ask, there is one request at a time.
//
// The ServiceAccount of the program needs the verb create on serviceaccounts/token of the ServiceAccount whose tokens it
// asks for. In a pod that podtoken injects, files are better: see the package tokensource above this one.
//
// No error contains any part of a token. Do not add: several ServiceAccounts in one Source, caches on disk.
package tokenrequest
