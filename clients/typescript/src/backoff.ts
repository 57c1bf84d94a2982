/** When to try again. */

const FIRST_MS = 50;
const LONGEST_MS = 2000;

/** Pauses in milliseconds that grow with each failure in a row. */
export class Backoff {
  #failures = 0;

  /**
   * At least as long as the server asks for; otherwise at random between half of the step and all of it, so that
   * many clients do not come back as one.
   */
  next(asked = 0): number {
    const step = Math.min(FIRST_MS * 2 ** Math.min(this.#failures, 10), LONGEST_MS);
    this.#failures += 1;
    return Math.max(step * (0.5 + Math.random() / 2), asked);
  }

  /** Something worked. */
  reset(): void {
    this.#failures = 0;
  }
}

export const sleep = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));
