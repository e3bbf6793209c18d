// Package servingcert keeps the webhook's serving certificate in installations without cert-manager: a private CA and a
// certificate in one Secret, and the CA in the webhook's registration (MutatingWebhookConfiguration). It runs in the
// controller, under its Lease, so that the webhook needs no rights.
//
// What to do next is a pure function (plan.go) of what the Secret holds, of what API servers are told to trust, and of the
// time. The reconciler (reconciler.go) does one step, looks again, and so on until there is nothing to do.
//
// The rule that all steps keep: at every moment, every webhook pod serves a certificate that every API server trusts. Both
// learn late: API servers by a watch, pods by the kubelet's sync of files, which takes up to two minutes. So a new CA is
// trusted for a while before it signs, and the old one is trusted for a while after its last certificate was replaced:
//
//	Authority    a new CA is in the Secret; the certificate in use stays, and its CA is kept as a previous one
//	Bundle       API servers trust both
//	Trusted      seen: the registration has both. From now on trustDelay counts
//	Certificate  the new CA has signed a new certificate. From now on fileDelay counts
//	Forget       the previous CA is not trusted any more
//
// Every step can be the last before a crash, and somebody may delete any part of the Secret, or all of it, at any time.
//
// Why not github.com/open-policy-agent/cert-controller (v0.16.0, which builds with our controller-runtime, and can run
// outside of the webhook): its refreshCerts writes a new CA and a certificate of that CA in one step and then replaces
// the caBundle, so that admission fails from the kubelet's sync of the first pod, or from the new caBundle, until the
// last pod has its new file. It also watches all Secrets of the namespace and all webhook registrations of the cluster, and
// makes RSA keys.
//
// Do not add: other Secrets, other fields of the registration (the policy podtoken-controller-guard refuses both).
package servingcert
