// Random strings have other names now.
import {
    LOWERCASE,
    UPPERCASE,
    secureRandomString,
    secureRandomStringFrom,
} from "engine/src/randomstring";

export * from "engine/src/randomstring";
export const randomString = secureRandomString;
export const randomLowercaseString = (length: number): string => secureRandomStringFrom(length, LOWERCASE);
export const randomUppercaseString = (length: number): string => secureRandomStringFrom(length, UPPERCASE);
