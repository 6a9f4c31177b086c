// What a token says of itself, read without checking it: the server is who judges it.

/** Members of a JWT (RFC 7519): the user, and when the token ends, s since 1970. */
export interface Claims {
  sub: string;
  exp?: number;
}

/** The claims of a JWT that has a `sub`; nothing of anything else. */
export function claims(token: unknown): Claims | undefined {
  try {
    const text = atob((token as string).split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/'));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    if (claims.sub) return claims;
  } catch {
    // No JWT.
  }
  return undefined;
}
